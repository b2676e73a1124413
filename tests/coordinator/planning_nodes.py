"""The fingerprint stage with real nodes that live in this process, and whose measurements are given."""

import copy
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from flwr.common import DisconnectRes, FitIns, FitRes, ReconnectIns
from flwr.common import GetPropertiesIns as Ask
from flwr.common import GetPropertiesRes as Reply

from fednnunet.coordinator.fingerprinting import find_fingerprint
from fednnunet.coordinator.registry import ClientRegistry
from fednnunet.coordinator.rounds import RoundServer, RoundStrategy
from fednnunet.events.events import EventSink
from fednnunet.files import read_json_object
from fednnunet.fingerprint.distribution import Distribution
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.planning import PlanningClient
from fednnunet.node.record import FINGERPRINT
from fednnunet.protocol.conversation import TRAIN, Config
from fednnunet.protocol.messages import Hello, Query
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.authentication import Authenticator
from fednnunet.security.identity import Identity, SiteList
from fednnunet.settings.node import PlanningSettings
from fednnunet.transport.connection import NO_PARAMETERS
from tests.coordinator.fake_node import OK, FakeNode
from tests.coordinator.training_federation import Events

CERTIFICATE = bytes(range(32))
RUN = "0123456789abcdef" * 2


class PlanningNode(FakeNode):
    """A node of a site with a given measurement.

    Attributes
    ----------
    client
        The node itself.
    said
        Questions with the answers to them, in order.
    loses
        Numbers of the answers about cases, from 1, that get lost with the connection.
    """

    def __init__(
        self, name: str, measurement: SiteMeasurement, identity: Identity | None = None, rules: Rules | None = None
    ) -> None:
        super().__init__(cid=f"connection of {name} {id(self)}")
        self.measurement = measurement
        self._made = (name, identity, rules)
        self.said: list[tuple[Config, Config]] = []
        self.loses: set[int] = set()
        self.registry: ClientRegistry | None = None
        self.start()

    def restart_with(self, rules: Rules) -> None:
        """Start the node again with other rules."""
        self._made = (*self._made[:2], rules)
        self.start()

    def start(self, **facts: Any) -> None:
        """Start the node, another one if there was one before."""
        name, identity, rules = self._made
        hello = {
            "site": name,
            "task": "extract_fingerprint",
            "method": "FFE",
            "cases": len(self.measurement.shapes),
            "versions": {"nnunetv2": "2.8.1"},
            "labels": {"background": 0, "x": 1},
            "channels": {str(channel): "CT" for channel in range(len(self.measurement.samples))},
            "image_reader": "SimpleITKIO",
            "fingerprint": "exact",
        }
        settings = PlanningSettings(task="extract_fingerprint", dataset="1")
        dataset = SiteDataset(f"Dataset001_{name}")
        self.client = PlanningClient(settings, dataset, Hello(**(hello | facts)), identity=identity, rules=rules)
        self.client.certificate = CERTIFICATE

    def told(self, question: Config) -> Config:
        """Return what the node answers."""
        answer: Config = self.client.get_properties(question)
        self.said.append((question, answer))
        return answer

    @property
    def answered(self) -> list[tuple[Query, bytes]]:
        """Questions about its cases, with the answers."""
        return [
            (Query.from_json(str(question["body"])), answer["data"])
            for question, answer in self.said
            if question["ask"] == TRAIN and isinstance(answer.get("data"), bytes)
        ]

    @property
    def answers(self) -> list[bytes]:
        """What it has answered about its cases."""
        return [answer for _, answer in self.answered]

    def get_properties(self, ins: Ask, timeout: float | None, group_id: int | None) -> Reply:
        return Reply(OK, self.told(ins.config))

    def fit(self, ins: FitIns, timeout: float | None, group_id: int | None) -> FitRes:
        answer = self.told(ins.config)
        number = len(set(self.answers))
        if number in self.loses:
            self.loses.remove(number)
            self._connect_again()
        return FitRes(OK, NO_PARAMETERS, 1, answer)

    def _connect_again(self) -> None:
        assert self.registry is not None
        again = copy.copy(self)
        again.cid += " again"
        self.registry.unregister(self)
        self.registry.register(again)
        self.registry.admit(again, self.client.hello)
        raise ConnectionError

    def reconnect(self, ins: ReconnectIns, timeout: float | None, group_id: int | None) -> DisconnectRes:
        return DisconnectRes("")


@contextmanager
def given_measurements(nodes: Mapping[str, PlanningNode], folder: Path) -> Any:
    """Let nodes take their measurements as they are given, and write into this folder."""

    def measure(_: object, __: object, hello: Hello, *___: object) -> SiteMeasurement:
        return nodes[hello.site].measurement

    with (
        mock.patch("fednnunet.node.planning.measure", measure),
        mock.patch.dict("os.environ", {"nnUNet_preprocessed": str(folder), "nnUNet_raw": str(folder / "raw")}),
    ):
        yield


def fingerprint_stage(
    folder: Path,
    nodes: Mapping[str, PlanningNode],
    listed: SiteList | None,
    on_round: Callable[[ClientRegistry], None] = lambda registry: None,
    *,
    proves: bool = True,
    sink: EventSink | None = None,
) -> dict[str, Any]:
    """Let a coordinator find the fingerprint, masked if there is a list, and return what all sites have installed."""
    registry = ClientRegistry(len(nodes))
    authenticator = Authenticator(listed if proves else None, CERTIFICATE)
    for node in nodes.values():
        node.registry = registry
        registry.register(node)
        registry.admit(node, authenticator.authenticate(node, RUN, 10).hello)
    registry.settle()

    def run_rounds(strategy: RoundStrategy, last: int) -> None:
        RoundServer(registry, strategy, lambda: on_round(registry)).fit(last, None)

    with given_measurements(nodes, folder):
        try:
            find_fingerprint("extract_fingerprint", registry, sink or Events(), run_rounds, listed, RUN)
        finally:
            for node in nodes.values():
                node.client.close()
    paths = [folder / f"Dataset001_{name}" / FINGERPRINT for name in nodes]
    assert len({path.read_bytes() for path in paths}) == 1
    return read_json_object(paths[0], "")


def random_site(
    seed: int, cases: int = 3, channels: int = 1, *, flat: bool = False, values: np.ndarray | None = None
) -> SiteMeasurement:
    """Return a measurement; all channels have `values` if these are given."""
    rng = np.random.default_rng(seed)
    shapes = rng.integers(20, 60, (cases, 3)).astype(np.uint32)
    spacings = rng.uniform(0.5, 3, (cases, 3))
    if flat:
        shapes[:, 0], spacings[:, 0] = 1, 999
    voxels = [rng.normal(0, 1000, 200).astype(np.float32) if values is None else values for _ in range(channels)]
    return SiteMeasurement(
        spacings=spacings,
        shapes=shapes,
        relative_sizes=rng.uniform(0.2, 1, cases),
        samples=tuple(Distribution.of(*np.unique(of_channel, return_counts=True)) for of_channel in voxels),
    )
