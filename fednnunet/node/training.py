"""The node of the task ``train``."""

import contextlib
import logging
from collections.abc import Callable, Mapping

import numpy as np

from fednnunet.background import Background, Stopped, Submits
from fednnunet.errors import FednnUNetError
from fednnunet.folds import Fold
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.federation_gain import tell_gain
from fednnunet.node.own_models import train_own_model
from fednnunet.node.randomness import seed_all
from fednnunet.node.rounds import FederatedRounds
from fednnunet.node.site_client import SiteClient, Work
from fednnunet.node.warm_trainers import WarmTrainers
from fednnunet.protocol.conversation import TRAIN, VALIDATE, Answer, Question
from fednnunet.protocol.messages import (
    Accepted,
    FoldRequest,
    GainRequest,
    Hello,
    ModelPart,
    OwnTrained,
    OwnTraining,
    Ready,
    RoundReport,
    RoundRequest,
    Shared,
    Sharing,
    Start,
    ValidationReport,
)
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.security.identity import Identity
from fednnunet.settings.node import TrainingSettings
from fednnunet.weights.encoding import ENCODINGS
from fednnunet.weights.layout import Layout
from fednnunet.weights.site_model import SiteModel

logger = logging.getLogger(__name__)


class TrainingClient(SiteClient):
    """Trains with the trainer that the user named, fold after fold, as the coordinator asks.

    After training a round it holds its update. The coordinator fetches that part by part, and hands the next global
    model back in the same parts; then the node validates. All this can be asked again, by a coordinator that was
    restarted too: what is done is not done twice, and what goes on is not disturbed.

    Parameters
    ----------
    arguments, dataset, hello, worker, identity, rules
        See `SiteClient`.
    warm
        Where trainers of several sites share a device, those that are there.
    """

    arguments: TrainingSettings

    def __init__(
        self,
        arguments: TrainingSettings,
        dataset: SiteDataset,
        hello: Hello,
        worker: Submits | None = None,
        warm: WarmTrainers | None = None,
        *,
        identity: Identity | None = None,
        rules: Rules | None = None,
    ) -> None:
        super().__init__(arguments, dataset, hello, worker, identity=identity, rules=rules)
        self._warm = warm
        self._rounds_of_fold: FederatedRounds | None = None
        self._shared: SiteModel | None = None
        self._at_end: SiteModel | None = None
        """What stays here but for its mean at the end."""
        self._holds_kept = False
        self._ready: Ready | None = None
        self._started: Start | None = None
        self._global_round: int | None = None
        """The round after which the global model was what this node has; unknown before it has one."""
        self._held_round: int | None = None
        """The round whose update it holds."""
        self._is_spoiled = False
        """Whether the trainer has left a round in the middle."""
        self._report: RoundReport | None = None
        """What it has said of the round that it holds."""
        self._validations: dict[Fold, ValidationReport] = {}
        """What it has said of the folds that were not trained since."""
        self._restored_error: np.ndarray | None = None
        self._housekeeping: Background[None] | None = None

    @property
    def answers(self) -> Mapping[str, Callable[[Work], Answer]]:
        """What works out the answers to this node's questions, by their kind."""
        return {
            "offer": self._offer,
            "start": self._start,
            "describe": self._describe,
            "share": self._share,
            "fetch": self._send_part,
            "collect": self._send_kept_part,
            "hand": self._take_part,
            "accept": self._accept,
            TRAIN: self._train,
            VALIDATE: self._validate,
            "finish": self._finish,
            "train_own": self._train_own,
            "gain": self._gain,
        }

    def answer_at_once(self, question: Question) -> Answer | None:
        """Leave a round that is being trained alone if it is the one that a restarted coordinator will ask for."""
        if question.kind != "start" or self._ready is None or self._started is None:
            return super().answer_at_once(question)
        with contextlib.suppress(FednnUNetError):  # what is no message is refused in its turn
            start, before = question.read(Start), self._started
            is_same = start == before.model_copy(update={"completed": start.completed})
            is_ready = start.completed == self._global_round and not self._is_spoiled
            if is_same and is_ready and self.replies.is_undisturbed:
                return Answer.of(self._ready.model_copy(update={"restored": True, "has_model": True}))
        return None

    def _train(self, work: Work) -> Answer:
        """Train a round from the global model, and hold the update."""
        number = work.read(RoundRequest).round
        self._after_housekeeping()
        shared = self._model
        if self._held_round != number:
            if self._global_round != number - 1 or self._is_spoiled:
                raise FednnUNetError(f"the coordinator asks for round {number}, for which this node is not ready")
            self._rounds.load(shared.weights, shared.layout)
            self._report = None
            self._validations.pop(self._rounds.fold, None)
            self._seed(self._rounds.fold, number)
            try:
                self._rounds.train(work.tracker)
            except Stopped:
                self._is_spoiled = True
                raise
            shared.hold(self._rounds.weights(shared.layout))
            self._held_round = number
        return Answer()

    def _validate(self, work: Work) -> Answer:
        """Validate the round's global model, all parts of which have arrived.

        That is done, and told, once for each round that was trained: figures of other models, as many as the
        coordinator likes, would say more than their averages.
        """
        number = work.read(RoundRequest).round
        shared = self._model
        if self._held_round != number:
            raise FednnUNetError(f"the coordinator asks for figures of round {number}, which this node has not trained")
        if self._report is not None:
            return Answer.of(self._report)
        shared.accept()
        self._global_round = number
        self._rounds.load(shared.weights, shared.layout)
        report = self._rounds.validate(number, shared.rounding_error)
        # nnU-Net's plot and checkpoints take seconds; the other sites need not wait for them
        rounds = self._rounds
        self._housekeeping = self.replies.afterwards(lambda _: rounds.end_epoch())
        self._report = report
        return Answer.of(report)

    def close(self) -> None:
        """Free the trainer."""
        super().close()
        self._forget_fold()

    @property
    def _rounds(self) -> FederatedRounds:
        if self._rounds_of_fold is None:
            raise FednnUNetError("the coordinator has not named a fold yet")
        if self._warm is not None:
            self._warm.use(self._rounds_of_fold)
        return self._rounds_of_fold

    @property
    def _model(self) -> SiteModel:
        if self._shared is None:
            raise FednnUNetError("the coordinator has not announced yet which tensors are shared")
        return self._shared

    def _seed(self, fold: Fold, round_number: int) -> None:
        """Let chance be the same whenever this round is trained, after a restart too; round 0 is building the trainer.

        Without a seed it is left alone, as nnU-Net does.
        """
        if self.arguments.seed is not None:
            seed_all(self.arguments.seed, self.hello.site, fold, round_number)

    def _after_housekeeping(self) -> None:
        """Make sure that the last epoch has been ended, or raise what went wrong with that."""
        housekeeping, self._housekeeping = self._housekeeping, None
        if housekeeping is not None:
            housekeeping.result()
        if self._rounds_of_fold is not None:
            # housekeeping comes too late if this question was there before the last one was answered
            self._rounds.end_epoch()

    def _forget_fold(self) -> None:
        if self._rounds_of_fold is not None:
            if self._warm is not None:
                self._warm.forget(self._rounds_of_fold)
            self._rounds_of_fold.close()
        self._rounds_of_fold = self._shared = self._at_end = self._ready = self._started = None
        self._global_round = self._held_round = None

    def _own(self, fold: Fold) -> Fold:
        """Return a fold if it is one that this node was started for: training it replaces what is there."""
        if fold not in self.hello.trained_folds:
            raise FednnUNetError(f"the coordinator asks for fold {fold}, for which this node was not started")
        return fold

    def _offer(self, work: Work) -> Answer:
        self._forget_fold()
        fold = self._own(work.read(FoldRequest).fold)
        self._seed(fold, 0)
        self._rounds_of_fold = FederatedRounds(self.arguments, self.dataset, fold)
        return Answer.of(self._rounds.offer())

    def _start(self, work: Work) -> Answer:
        start = work.read(Start)
        self._after_housekeeping()
        self._seed(self._own(start.fold), 0)
        if self._rounds_of_fold is None or self._rounds.fold != start.fold or not self._is_built_for(start):
            self._forget_fold()
            self._rounds_of_fold = FederatedRounds(self.arguments, self.dataset, start.fold)
        self._shared, self._global_round, self._held_round, self._is_spoiled = None, None, None, False
        self._ready, self._restored_error = self._rounds.start(start)
        self._started = start
        return Answer.of(self._ready)

    def _is_built_for(self, start: Start) -> bool:
        """Whether the trainer, if it is built, has the schedule that is asked for."""
        built = start if self._started is None else self._started
        return built.schedule.model_copy(update={"save_every": start.schedule.save_every}) == start.schedule

    def _describe(self, work: Work) -> Answer:
        return Answer.of(self._rounds.describe(self.dataset))

    def _share(self, work: Work) -> Answer:
        sharing = work.read(Sharing)
        own = {tensor.name: tensor for tensor in self._rounds.layout.tensors}
        unknown = [name for group in (*sharing.groups, sharing.at_end) for name in group if name not in own]
        if unknown:
            raise FednnUNetError(f"the coordinator wants to share {unknown[0]}, which the network does not have")
        groups = [Layout(tuple(own[name] for name in group)) for group in sharing.groups]
        at_end = [Layout(tuple(own[name] for name in sharing.at_end))] if sharing.at_end else []
        self._global_round = self._held_round = None  # this model has neither taken nor trained anything yet
        self._shared = SiteModel(self.hello.site, groups, ENCODINGS[sharing.encoding])
        if self._rounds.is_untrained:
            self._shared.hold(self._rounds.weights(self._shared.layout))
        self._holds_kept = False
        self._at_end = SiteModel(self.hello.site, at_end, ENCODINGS["float32"]) if at_end else None
        return Answer.of(Shared(digests=[group.digest for group in (*groups, *at_end)]))

    def _send_part(self, work: Work) -> Answer:
        part = work.read(ModelPart)
        # what a person has agreed to, and what the audit log says, hangs on the round: 0 is a model that knows nothing
        if part.round == 0 and not self._rounds.is_untrained:
            raise FednnUNetError("the coordinator asks for an untrained model, but this node's is trained")
        if part.round not in (0, self._held_round):
            raise FednnUNetError(f"the coordinator asks for an update of round {part.round}, which this node has not")
        return Answer.of(part, self._model.send(part.group, part.start, part.stop, part.round))

    def _send_kept_part(self, work: Work) -> Answer:
        """Send a part of what has stayed here in all rounds, after the last one; no mean of it ever comes back."""
        part, kept, started = work.read(ModelPart), self._at_end, self._started
        if kept is None or started is None:
            raise FednnUNetError("the coordinator asks for weights that it has declared local")
        if self._rounds.is_untrained or not part.round == self._global_round == started.schedule.rounds:
            raise FednnUNetError("the coordinator asks for weights of the last round, which this node has not trained")
        if not self._holds_kept:  # the full validation may load another checkpoint into the network
            kept.hold(self._rounds.weights(kept.layout))
            self._holds_kept = True
        return Answer.of(part, kept.send(part.group, part.start, part.stop, part.round))

    def _take_part(self, work: Work) -> Answer:
        part = work.read(ModelPart)
        self._model.take(part.group, part.start, part.stop, part.round, work.question.data)
        return Answer.of(part)

    def _accept(self, work: Work) -> Answer:
        accepted = work.read(Accepted)
        self._model.accept()
        if self._restored_error is not None:
            self._model.restore_rounding_error(self._restored_error)
        self._global_round = accepted.round
        return Answer.of(accepted)

    def _finish(self, work: Work) -> Answer:
        self._after_housekeeping()
        fold = self._rounds.fold
        if fold not in self._validations:
            if self._shared is not None:
                self._rounds.load(self._shared.weights, self._shared.layout)
            self._validations[fold] = self._rounds.finish()
        return Answer.of(self._validations[fold])

    def _train_own(self, work: Work) -> Answer:
        asked = work.read(OwnTraining)
        self._own(asked.fold)
        self._after_housekeeping()
        self._forget_fold()  # one trainer at a time has room on a GPU
        try:
            return Answer.of(train_own_model(self.arguments, self.dataset, asked, work.tracker))
        except Stopped:
            raise
        except Exception as error:  # the federation, which has all that it needs of this node, goes on with it
            logger.error("The %s model could not be trained: %s", asked.model, error)
            logger.debug("It failed", exc_info=error)
            return Answer.of(OwnTrained(epochs=None))

    def _gain(self, work: Work) -> Answer:
        asked = work.read(GainRequest)
        self._own(asked.fold)
        return Answer.of(tell_gain(self.arguments, self.dataset, asked))
