"""The node of the task ``train``."""

import argparse

from flwr.common import NDArrays, Scalar

from fednnunet.channel.messages import (
    FoldRequest,
    Hello,
    ModelPart,
    Ready,
    RoundReport,
    Schedule,
    Shared,
    Sharing,
    TrainingOffer,
    ValidationReport,
)
from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.rounds import FederatedRounds
from fednnunet.node.site_client import SiteClient
from fednnunet.weights.encoding import ENCODINGS
from fednnunet.weights.layout import Layout
from fednnunet.weights.site_model import SiteModel


class TrainingClient(SiteClient):
    """Trains with the trainer that the user named, fold after fold, as the coordinator asks.

    After training a round it holds its update. The coordinator fetches that part by part, and hands the next global
    model back in the same parts; then the node validates.
    """

    def __init__(self, arguments: argparse.Namespace, dataset: SiteDataset, hello: Hello) -> None:
        super().__init__(arguments, dataset, hello)
        self._rounds_of_fold: FederatedRounds | None = None
        self._shared: SiteModel | None = None
        self._training_cases = 0
        self.answer("offer", self._offer)
        self.answer("start", self._start)
        self.answer("share", self._share)
        self.answer_with_data("fetch", self._send_part)
        self.answer_with_data("hand", self._take_part)
        self.answer("finish", self._finish)

    def work(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int]:
        """Train a round from the global model, and hold the update."""
        shared = self._model
        self._rounds.load(shared.weights, shared.layout)
        self._rounds.train()
        shared.hold(self._rounds.weights(shared.layout))
        return [], self._training_cases

    def receive(self, parameters: NDArrays, config: dict[str, Scalar]) -> RoundReport:
        """Validate the round's global model, all parts of which have arrived."""
        shared = self._model
        self._rounds.load(shared.weights, shared.layout)
        return self._rounds.complete()

    def close(self) -> None:
        """Free the trainer."""
        if self._rounds_of_fold is not None:
            self._rounds_of_fold.close()
            self._rounds_of_fold = None
        self._shared = None

    @property
    def _rounds(self) -> FederatedRounds:
        if self._rounds_of_fold is None:
            raise FednnUNetError("the coordinator has not named a fold yet")
        return self._rounds_of_fold

    @property
    def _model(self) -> SiteModel:
        if self._shared is None:
            raise FednnUNetError("the coordinator has not said yet what is shared")
        return self._shared

    def _offer(self, body: str) -> TrainingOffer:
        self.close()
        self._rounds_of_fold = FederatedRounds(self.arguments, self.dataset, FoldRequest.from_json(body).fold)
        return self._rounds.offer()

    def _start(self, body: str) -> Ready:
        ready = self._rounds.start(Schedule.from_json(body))
        self._training_cases = ready.training_cases
        return ready

    def _share(self, body: str) -> Shared:
        sharing = Sharing.from_json(body)
        own = {tensor.name: tensor for tensor in self._rounds.layout.tensors}
        unknown = [name for group in sharing.groups for name in group if name not in own]
        if unknown:
            raise FednnUNetError(f"the coordinator wants to share {unknown[0]}, which the network does not have")
        groups = [Layout(tuple(own[name] for name in group)) for group in sharing.groups]
        self._shared = SiteModel(self.hello.site, groups, ENCODINGS[sharing.encoding])
        self._shared.hold(self._rounds.weights(self._shared.layout))
        return Shared(digests=[group.digest for group in groups])

    def _send_part(self, body: str, data: bytes) -> tuple[ModelPart, bytes]:
        part = ModelPart.from_json(body)
        return part, self._model.send(part.group, part.start, part.stop, part.round)

    def _take_part(self, body: str, data: bytes) -> tuple[ModelPart, bytes]:
        part = ModelPart.from_json(body)
        self._model.take(part.group, part.start, part.stop, part.round, data)
        return part, b""

    def _finish(self, body: str) -> ValidationReport:
        return self._rounds.finish()
