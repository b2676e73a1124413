"""The coordinator's side of moving weights, with nodes that live in this process."""

import threading

import numpy as np
import pytest
from flwr.common import Scalar

from fednnunet.coordinator.exchange import Averaging, Exchange
from fednnunet.coordinator.site import Site
from fednnunet.errors import FednnUNetError, SiteFailure
from fednnunet.protocol.messages import Accepted, Hello, ModelPart, Shared, Sharing
from fednnunet.weights.aggregation import AggregationName
from fednnunet.weights.encoding import ENCODINGS, EncodingName
from fednnunet.weights.layout import Layout, TensorSpec, state_name
from fednnunet.weights.sharing import Group, share
from fednnunet.weights.site_model import SiteModel
from tests.coordinator.fake_node import FakeNode

EXACT = Averaging("float32", "mean", "none", None)


def _layout(**sizes: int) -> Layout:
    return Layout(tuple(TensorSpec(name, (size,), "float32") for name, size in sizes.items()))


class Holder(FakeNode):
    """A site that holds weights: all its numbers are `value` at first."""

    def __init__(self, site: str, layout: Layout, value: float) -> None:
        super().__init__(cid=site)
        self.properties["site"] = site
        self.layout = layout
        self.value = value
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.damage = lambda data: data
        self.model: SiteModel
        self.kept = np.zeros(0, np.float32)

    def respond(self, kind: str, body: str, data: bytes) -> dict[str, Scalar]:
        assert self.may_answer.wait(60)
        if kind == "share":
            sharing = Sharing.from_json(body)
            own = {tensor.name: tensor for tensor in self.layout.tensors}
            groups = [Layout(tuple(own[name] for name in group)) for group in sharing.groups]
            at_end = Layout(tuple(own[name] for name in sharing.at_end))
            self.model = SiteModel(self.cid, groups, ENCODINGS[sharing.encoding])
            self.hold(self.value)
            digests = [group.digest for group in (*groups, *([at_end] if at_end.tensors else []))]
            return {"body": Shared(digests=digests).to_json()}
        if kind == "accept":
            self.model.accept()
            return {"body": Accepted.from_json(body).to_json()}
        part = ModelPart.from_json(body)
        if kind == "collect":
            return {"body": body, "data": self.damage(self.kept[part.start : part.stop].tobytes())}
        where = (part.group, part.start, part.stop, part.round)
        if kind == "fetch":
            return {"body": body, "data": self.damage(self.model.send(*where))}
        self.model.take(*where, data)
        return {"body": body}

    @property
    def received(self) -> np.ndarray:
        """The global model, as a node has it that has been told to validate it."""
        self.model.accept()
        return self.model.weights

    def hold(self, value: float) -> None:
        self.model.hold(np.full(self.model.layout.size, value, np.float32))


def _begin(nodes: list[Holder], *, cohorts: bool = False, averaging: Averaging = EXACT) -> tuple[Exchange, list[Group]]:
    groups = share({node.cid: node.layout for node in nodes}, cohorts=cohorts)
    exchange = Exchange(groups, averaging)
    sites = _sites(nodes)
    exchange.initialize({site.name: site for site in sites}, [])
    for site in sites:
        exchange.send_model(site, 0)
    return exchange, groups


def _sites(nodes: list[Holder]) -> list[Site]:
    return [Site(_hello(node.cid), node, contact_timeout=60) for node in nodes]


def _hello(site: str) -> Hello:
    return Hello(site=site, task="train", method="FFE", cases=1, versions={}, labels={}, channels={})


def _average(exchange: Exchange, nodes: list[Holder], weights: dict[str, int]) -> None:
    sites = _sites(nodes)
    exchange.aggregate(sites, 1, weights)
    there, failures = exchange.broadcast(sites, 1)
    assert (there, failures) == (sites, [])


def test_a_round_gives_every_site_the_weighted_mean() -> None:
    nodes = [Holder(site, _layout(a=5, b=7), value) for site, value in (("A", 1), ("B", 2), ("C", 3))]
    exchange, _ = _begin(nodes)
    for node in nodes:
        assert (node.model.weights == 1).all()  # the first site's
    for node, value in zip(nodes, (10, 20, 30), strict=True):
        node.hold(value)
    _average(exchange, nodes, {"A": 1, "B": 1, "C": 2})
    for node in nodes:
        assert (node.received == 22.5).all()


def test_a_site_with_a_pretrained_model_gives_the_first_one() -> None:
    nodes = [Holder(site, _layout(a=5), value) for site, value in (("A", 1), ("B", 2))]
    exchange = Exchange(share({node.cid: node.layout for node in nodes}), EXACT)
    sites = _sites(nodes)
    exchange.initialize({site.name: site for site in sites}, ["B"])
    for site in sites:
        exchange.send_model(site, 0)
    assert all((node.model.weights == 2).all() for node in nodes)


def test_groups_are_averaged_among_their_own_sites_only() -> None:
    nodes = [
        Holder("A", _layout(stem=3, deep=4), 1),
        Holder("B", _layout(stem=3, deep=4), 2),
        Holder("C", _layout(stem=3, deep=5), 3),
        Holder("D", _layout(stem=3, deep=5), 4),
    ]
    exchange, groups = _begin(nodes, cohorts=True)
    assert [group.sites for group in groups] == [("A", "B", "C", "D"), ("A", "B"), ("C", "D")]
    for node, value in zip(nodes, (1, 2, 3, 6), strict=True):
        node.hold(value)
    _average(exchange, nodes, dict.fromkeys("ABCD", 1))
    assert [node.received.tolist() for node in nodes] == [[3] * 3 + [1.5] * 4] * 2 + [[3] * 3 + [4.5] * 5] * 2


@pytest.mark.parametrize(("aggregation", "expected"), [("mean", 4.25), ("median", 3)])
def test_what_stays_at_the_sites_is_aggregated_once_and_no_site_gets_it(
    aggregation: AggregationName, expected: float
) -> None:
    layout = _layout(conv=4, norm=3)
    nodes = [Holder(site, layout, 1) for site in "ABC"]
    groups = share({node.cid: node.layout for node in nodes}, keep_local="norm", normalization={"A": ["norm"]})
    exchange = Exchange(groups, Averaging("int8", aggregation, "none", None), _layout(norm=3))
    sites = _sites(nodes)
    exchange.initialize({site.name: site for site in sites}, [])
    for site in sites:
        exchange.send_model(site, 0)
    for node, value in zip(nodes, (2, 3, 6), strict=True):
        node.kept = np.full(3, value, np.float32)
    assert exchange.collect(sites, 9, {"A": 1, "B": 1, "C": 2}).tolist() == [expected] * 3
    assert [node.model.layout.size for node in nodes] == [4] * 3
    for damaged in (np.float32("nan"), np.float32(1e9)):
        nodes[1].kept[2] = damaged
        with pytest.raises(SiteFailure, match="Site B failed"):
            exchange.collect(sites, 9, {"A": 1, "B": 1, "C": 2})


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_who_answers_first_does_not_change_a_bit(encoding: str) -> None:
    rng = np.random.default_rng(0)
    updates = rng.normal(size=(3, 1000)).astype(np.float32)
    results = []
    for last in range(3):
        nodes = [Holder(site, _layout(a=1000), 0) for site in "ABC"]
        exchange, _ = _begin(nodes, averaging=Averaging(encoding, "mean", "none", None))  # type: ignore[arg-type]
        for node, update in zip(nodes, updates, strict=True):
            node.model.hold(update)
        release = _let_others_answer_first(nodes, nodes[last])
        _average(exchange, nodes, {"A": 3, "B": 1, "C": 2})
        release.join()
        results.append([node.received.tobytes() for node in nodes])
    assert len({result for group in results for result in group}) == 1


def _let_others_answer_first(nodes: list[Holder], last: Holder) -> threading.Thread:
    """Let one node wait until all others have answered."""
    last.may_answer.clear()
    answered = threading.Barrier(len(nodes))

    def tell(data: bytes) -> bytes:
        answered.wait(60)
        return data

    for node in nodes:
        if node is not last:
            node.damage = tell
    release = threading.Thread(target=lambda: (answered.wait(60), last.may_answer.set()))
    release.start()
    return release


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda data: data[:-1], "bytes instead of"),
        (lambda data: data + b"x", "bytes instead of"),
        (lambda data: b"", "bytes instead of"),
        (lambda data: np.full(len(data) // 4, np.nan, np.float32).tobytes(), "NaN or infinite"),
    ],
)
def test_an_update_that_cannot_be_one_is_that_sites_failure(damage: object, what: str) -> None:
    nodes = [Holder(site, _layout(a=5), 1) for site in "AB"]
    exchange, _ = _begin(nodes)
    nodes[1].damage = damage  # type: ignore[assignment]
    with pytest.raises(SiteFailure, match=rf"Site B failed.*{what}"):
        exchange.aggregate(_sites(nodes), 1, {"A": 1, "B": 1})


def test_a_site_whose_network_is_not_what_it_has_said_is_refused() -> None:
    nodes = [Holder(site, _layout(a=5), 1) for site in "AB"]
    groups = share({node.cid: node.layout for node in nodes})
    nodes[1].layout = _layout(a=6)
    with pytest.raises(FednnUNetError, match="differs from its description"):
        Exchange(groups, EXACT).send_model(_sites(nodes)[1], 0)


MOMENTUM = Layout((*_layout(a=2000).tensors, TensorSpec(state_name("a", "momentum_buffer"), (2000,), "float32")))


def test_momentum_is_averaged_as_it_is_whatever_the_server_makes_of_weights() -> None:
    nodes = [Holder(site, MOMENTUM, 1) for site in "AB"]
    exchange, _ = _begin(nodes, averaging=Averaging("float32", "mean", "momentum", 0.5))
    nodes[0].hold(3)
    nodes[1].hold(7)
    exchange.aggregate(_sites(nodes), 1, {"A": 1, "B": 3})
    exchange.broadcast(_sites(nodes), 1)
    for node in nodes:
        weights, momentum = np.split(node.received, 2)
        assert np.all(weights == 1 + 0.5 * (6 - 1))
        assert np.all(momentum == 6)


@pytest.mark.parametrize(("encoding", "bytes_each_way"), [("float32", 8), ("float16", 3), ("int8", 2)])
def test_momentum_takes_a_byte_where_weights_are_rounded(encoding: EncodingName, bytes_each_way: int) -> None:
    nodes = [Holder(site, MOMENTUM, 1) for site in "AB"]
    exchange, _ = _begin(nodes, averaging=Averaging(encoding, "mean", "none", None))
    sent: list[int] = []
    nodes[0].damage = lambda data: (sent.append(len(data)), data)[1]
    exchange.aggregate(_sites(nodes), 1, {"A": 1, "B": 1})
    scales = (encoding != "float32") + (encoding == "int8")
    assert sum(sent) == 2000 * bytes_each_way + scales * 4 * 8
