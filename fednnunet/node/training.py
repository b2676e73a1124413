"""The node of the task ``train``."""

import contextlib
import logging
import math
from collections.abc import Callable, Mapping

import numpy as np

from fednnunet.background import Background, Stopped, Submits
from fednnunet.errors import FednnUNetError
from fednnunet.folds import Fold
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.federation_gain import tell_gain
from fednnunet.node.masked_figures import MaskedFigures
from fednnunet.node.masked_updates import HeldGroup, MaskedUpdates, Signer
from fednnunet.node.openings import Openings
from fednnunet.node.own_models import train_own_model
from fednnunet.node.randomness import seed_all
from fednnunet.node.rounds import FederatedRounds
from fednnunet.node.site_client import SiteClient, Work
from fednnunet.node.warm_trainers import WarmTrainers
from fednnunet.protocol.conversation import NO_BODY, TRAIN, VALIDATE, Answer, Question
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
from fednnunet.protocol.secure_aggregation import (
    AGREE,
    FIGURES,
    JOIN,
    OPEN,
    FiguresRequest,
    OpeningRequest,
    Purpose,
    SignedKeys,
    SumRequest,
    Trained,
)
from fednnunet.secure_aggregation.attempts import Rules
from fednnunet.secure_aggregation.contexts import TrainingFacts
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
        self._masked: MaskedUpdates | None = None
        """Sums of which what is held is a term, unless it leaves as it is."""
        self._figures: MaskedFigures | None = None
        """Sums of which losses and Dice are terms, unless they leave as they are."""
        self._trained: Trained | None = None
        """What it has said of the masked update that it holds."""
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
            AGREE: self._agree,
            JOIN: self._join,
            OPEN: self._open,
            FIGURES: self._tell_figures,
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
                known = {"restored": True, "has_model": True}
                is_opened = self._masked is not None and self._masked.is_opened
                return Answer.of(self._ready.model_copy(update={**known, "is_opened": is_opened}))
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
            if self._masked is not None:
                self._masked.renew()
                self._trained = _described(shared, number)
        return Answer() if self._trained is None else Answer.of(self._trained)

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
        if self._masked is not None:
            self._masked.close()
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
        self._global_round = self._held_round = self._masked = self._figures = self._trained = None

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
        begins_anew = self._started is not None and self._started.repeats != start.repeats
        is_other = self._rounds_of_fold is None or self._rounds.fold != start.fold or begins_anew
        if is_other or not self._is_built_for(start):
            self._forget_fold()
            self._rounds_of_fold = FederatedRounds(self.arguments, self.dataset, start.fold)
        self._shared, self._global_round, self._held_round, self._is_spoiled = None, None, None, False
        self._masked = self._figures = self._trained = None
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
        self._masked, self._figures = self._sums(sharing)
        return Answer.of(Shared(digests=[group.digest for group in (*groups, *at_end)]))

    def _sums(self, sharing: Sharing) -> tuple[MaskedUpdates | None, MaskedFigures | None]:
        """Return the sums of what this site shares, and of its figures; none of what leaves as it is."""
        if self._rules is None or self._identity is None:
            if sharing.members is not None:
                raise FednnUNetError(
                    "the coordinator wants masked sums (--secure), for which this node needs --sites and --key"
                )
            return None, None
        if sharing.members is None:
            raise FednnUNetError("the coordinator wants plain updates, but this site takes part in masked sums only")
        assert self._started is not None
        assert self._ready is not None
        models: list[tuple[SiteModel, Purpose]] = [(self._model, "update")]
        if self._at_end is not None:
            models.append((self._at_end, "local"))
        members = iter(sharing.members)
        groups = [
            HeldGroup(model, number, purpose, layout.digest, next(members, []))
            for model, purpose in models
            for number, layout in enumerate(model.groups)
        ]
        signer = Signer(self.hello.site, self._identity, self._rules)
        facts = TrainingFacts(self._started.run, self._started.fold, self._rules.sites.digest)
        openings = Openings(self._rounds.output_folder, self._started.run, begins_anew=self.arguments.overwrite)
        updates = MaskedUpdates(signer, facts, groups, self._ready.training_cases, openings)
        if self._rules.figures is None:
            return updates, None
        return updates, MaskedFigures(signer, self._rules.figures, facts, self._started.schedule, openings)

    @property
    def _masks(self) -> MaskedUpdates:
        if self._masked is None:
            raise FednnUNetError("the coordinator asks for a masked sum, for which this node needs --sites and --key")
        return self._masked

    def _agree(self, work: Work) -> Answer:
        request = work.read(SumRequest)
        if request.purpose == "figures":
            self._report_of(request.round)
            return Answer.of(self._hidden.agree(request))
        if request.purpose == "local":
            self._hold_kept(request.round)
        elif request.purpose != "update" or request.round != self._held_round:
            raise FednnUNetError(f"the coordinator asks for a sum of updates of round {request.round}, not held here")
        return Answer.of(self._masks.agree(request, work.question.data))

    def _join(self, work: Work) -> Answer:
        keys = work.read(SignedKeys)
        return Answer.of(self._masks.join(keys) if keys.group else self._hidden.join(keys))

    def _tell_figures(self, work: Work) -> Answer:
        """Tell the figures of a round, or of the full validation, for sums over sites."""
        request = work.read(FiguresRequest)
        terms = self._hidden.terms(request, work.question.body, self._report_of(request.round))
        return Answer(NO_BODY, terms, round=request.round, is_masked=True)

    @property
    def _hidden(self) -> MaskedFigures:
        if self._figures is None:
            raise FednnUNetError("the coordinator asks for masked figures, but this site tells its own, or none")
        return self._figures

    def _report_of(self, round_number: int) -> RoundReport | ValidationReport:
        report: RoundReport | ValidationReport | None = self._report if round_number == self._held_round else None
        if self._started is not None and round_number == self._started.schedule.rounds + 1:
            report = self._validations.get(self._started.fold)
        if report is None:
            raise FednnUNetError(f"the coordinator asks for figures of round {round_number}, of which there are none")
        return report

    def _open(self, work: Work) -> Answer:
        return Answer.of(self._masks.open(work.read(OpeningRequest)))

    def _send_part(self, work: Work) -> Answer:
        part = work.read(ModelPart)
        # what a person has agreed to, and what the audit log says, hangs on the round: 0 is a model that knows nothing
        if part.round == 0 and not self._rounds.is_untrained:
            raise FednnUNetError("the coordinator asks for an untrained model, but this node's is trained")
        if part.round not in (0, self._held_round):
            raise FednnUNetError(f"the coordinator asks for an update of round {part.round}, which this node has not")
        if self._masked is not None and part.round:
            return Answer.of(part, self._masked.part(self._model, part), is_masked=True)
        if self._masked is not None and self.arguments.pretrained_weights is not None:
            raise FednnUNetError(
                "the coordinator asks for the model of -pretrained_weights, which this site could only send as it is: "
                "leave the flag out with --secure"
            )
        return Answer.of(part, self._model.send(part.group, part.start, part.stop, part.round))

    def _send_kept_part(self, work: Work) -> Answer:
        """Send a part of what has stayed here in all rounds, after the last one; no mean of it ever comes back."""
        part = work.read(ModelPart)
        kept = self._hold_kept(part.round)
        if self._masked is not None:
            return Answer.of(part, self._masked.part(kept, part), is_masked=True)
        return Answer.of(part, kept.send(part.group, part.start, part.stop, part.round))

    def _hold_kept(self, round_number: int) -> SiteModel:
        """Return what has stayed here in all rounds, as it is after the last one."""
        kept, started = self._at_end, self._started
        if kept is None or started is None:
            raise FednnUNetError("the coordinator asks for weights that it has declared local")
        if self._rounds.is_untrained or not round_number == self._global_round == started.schedule.rounds:
            raise FednnUNetError("the coordinator asks for weights of the last round, which this node has not trained")
        if not self._holds_kept:  # the full validation may load another checkpoint into the network
            kept.hold(self._rounds.weights(kept.layout))
            self._holds_kept = True
        return kept

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


def _described(model: SiteModel, round_number: int) -> Trained:
    """Return what the coordinator is told of an update that it cannot see."""
    squares: dict[bool, list[tuple[float, int]]] = {False: [], True: []}
    try:
        for of_optimizer, square, size in model.changes():
            squares[of_optimizer].append((square, size))
    except FednnUNetError as error:
        return Trained(round=round_number, problem=str(error))
    norms = [
        math.sqrt(math.fsum(square for square, _ in parts) / sum(size for _, size in parts)) if parts else None
        for parts in squares.values()
    ]
    return Trained(round=round_number, norm=norms[0], optimizer_norm=norms[1])
