"""FedProx: attracts local training to the global model.

Li et al., *Federated Optimization in Heterogeneous Networks*, MLSys 2020, equation 2: the local objective has the term
``mu / 2 * ||w - w_global||**2``, whose gradient is ``mu * (w - w_global)``.
"""

import torch


class ProximalTerm:
    """Adds the term's gradient just before each step of an optimizer, after nnU-Net's clipping of the others.

    Parameters
    ----------
    network
        The network that is trained.
    optimizer
        The optimizer that trains it.
    mu
        The term's weight.
    """

    def __init__(self, network: torch.nn.Module, optimizer: torch.optim.Optimizer, mu: float) -> None:
        self._parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self._mu = mu
        self.remember()
        optimizer.register_step_pre_hook(lambda *_: self._add_gradient())

    def remember(self) -> None:
        """Pull towards the weights as they are now."""
        self._global = [parameter.detach().clone() for parameter in self._parameters]

    def forget(self) -> None:
        """Free the memory of `remember`, which must be called again before the next step."""
        self._global = []

    @torch.no_grad()
    def _add_gradient(self) -> None:
        for parameter, towards in zip(self._parameters, self._global, strict=True):
            if parameter.grad is not None:
                parameter.grad.add_(parameter - towards, alpha=self._mu)
