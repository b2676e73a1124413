import torch

from fednnunet.node.proximal import ProximalTerm


def test_the_gradient_is_that_of_the_papers_objective() -> None:
    """Train with the hook, and train with the term written into the loss."""
    torch.manual_seed(0)
    data, target = torch.randn(8, 3), torch.randn(8, 2)
    weights = []
    for by_hand in (False, True):
        torch.manual_seed(1)
        network = torch.nn.Linear(3, 2)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
        start = [parameter.detach().clone() for parameter in network.parameters()]
        if not by_hand:
            ProximalTerm(network, optimizer, mu=0.5)
        for _ in range(5):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(network(data), target)
            if by_hand:
                for parameter, towards in zip(network.parameters(), start, strict=True):
                    loss = loss + 0.5 / 2 * (parameter - towards).square().sum()
            loss.backward()
            optimizer.step()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in network.parameters()]))
    torch.testing.assert_close(*weights)


def test_each_round_pulls_towards_the_weights_it_began_with() -> None:
    network = torch.nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    term = ProximalTerm(network, optimizer, mu=1.0)
    with torch.no_grad():
        network.weight.fill_(5.0)
    term.remember()
    with torch.no_grad():
        network.weight.fill_(7.0)
    network.weight.grad = torch.zeros(1, 1)
    optimizer.step()
    assert network.weight.item() == 5.0
