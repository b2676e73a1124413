"""The node of the task ``train``."""

import argparse

import numpy as np
from flwr.common import NDArrays, Scalar

from fednnunet.channel.messages import (
    FoldRequest,
    Hello,
    Ready,
    RoundReport,
    Schedule,
    TrainingOffer,
    ValidationReport,
)
from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.rounds import FederatedRounds
from fednnunet.node.site_client import SiteClient


class TrainingClient(SiteClient):
    """Trains with the trainer that the user named, fold after fold, as the coordinator asks."""

    def __init__(self, arguments: argparse.Namespace, dataset: SiteDataset, hello: Hello) -> None:
        super().__init__(arguments, dataset, hello)
        self._rounds_of_fold: FederatedRounds | None = None
        self._training_cases = 0
        self.answer("offer", self._offer)
        self.answer("start", self._start)
        self.answer("finish", self._finish)

    def get_parameters(self, config: dict[str, Scalar]) -> NDArrays:
        """Return the model as it is now, one flat float32 array: the first global model, if this site is asked."""
        return [self._rounds.weights()]

    def work(self, parameters: NDArrays, config: dict[str, Scalar]) -> tuple[NDArrays, int]:
        """Train a round and return the update. `parameters` is empty where the node has the global model already."""
        if parameters:
            self._rounds.load(_single(parameters))
        return [self._rounds.train()], self._training_cases

    def receive(self, parameters: NDArrays, config: dict[str, Scalar]) -> RoundReport:
        """Take the global model of the round and validate it."""
        return self._rounds.complete(_single(parameters))

    def close(self) -> None:
        """Free the trainer."""
        if self._rounds_of_fold is not None:
            self._rounds_of_fold.close()
            self._rounds_of_fold = None

    @property
    def _rounds(self) -> FederatedRounds:
        if self._rounds_of_fold is None:
            raise FednnUNetError("the coordinator has not named a fold yet")
        return self._rounds_of_fold

    def _offer(self, body: str) -> TrainingOffer:
        self.close()
        self._rounds_of_fold = FederatedRounds(self.arguments, self.dataset, FoldRequest.from_json(body).fold)
        return self._rounds.offer()

    def _start(self, body: str) -> Ready:
        ready = self._rounds.start(Schedule.from_json(body))
        self._training_cases = ready.training_cases
        return ready

    def _finish(self, body: str) -> ValidationReport:
        return self._rounds.finish()


def _single(parameters: NDArrays) -> np.ndarray:
    if len(parameters) != 1:
        raise FednnUNetError(f"a model travels as one array, the coordinator sent {len(parameters)}")
    return parameters[0]
