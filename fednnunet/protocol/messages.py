"""Schemas of all messages between coordinator and nodes; both ends validate against them.

Every message is JSON made by one of these classes; unknown fields and wrong types are rejected on arrival.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import AfterValidator, FailFast, Field, model_validator
from pydantic_core import PydanticCustomError

from fednnunet.fingerprint.questions import MOST_CHANNELS, Question, Spacing
from fednnunet.folds import FOLDS_OF_NNUNET, MOST_FOLDS, Fold, parse_folds
from fednnunet.schema import NONE_IF_NOT_FINITE, Count, JsonObject, Line, Name, Number, Told, WireMessage
from fednnunet.weights.encoding import EncodingName
from fednnunet.weights.layout import MOST_ELEMENTS, Listing, TensorSpec

MOST_SITES = 1000
MOST_LABELS = 1000
MOST_CASES = 100_000
MOST_TENSORS = 20_000
MOST_EPOCHS = 100_000
"""Of a training; the logs of the epochs that a node has missed are filled up."""
MOST_ITERATIONS = 10**8
"""Of a training, on which the fastest GPU works for weeks; nnU-Net's own has 250 000."""
MOST_LISTED = 4 * MOST_TENSORS
"""Entries of a state dict, which lists most of a U-Net's tensors three or four times."""

Task = Literal["extract_fingerprint", "plan_and_preprocess", "train", "evaluate"]
TASKS: tuple[Task, ...] = ("extract_fingerprint", "plan_and_preprocess", "train", "evaluate")
TASKS_WITH_NETWORK: tuple[Task, ...] = ("train", "evaluate")
"""Tasks that have a configuration and a fold."""

Method = Literal["FFE", "AsymFedAvg"]
"""One fingerprint and one set of plans for all sites, or a set of its own for each."""

FingerprintMode = Literal["exact", "shared-cases"]
FINGERPRINT_MODES: tuple[FingerprintMode, ...] = ("exact", "shared-cases")
"""Whether sites answer with counts only, or also with spacing and shape of each case."""

_Fold = Annotated[int, Field(ge=0, lt=MOST_FOLDS)] | Literal["all"]
_Round = Annotated[int, Field(ge=0, le=10**6)]
_Label = Annotated[int, Field(ge=0, le=10**9)]
_Labels = Annotated[list[_Label], Field(max_length=MOST_LABELS)]
_Voxels = Annotated[int, Field(ge=0, lt=1 << 32)]
_Element = Annotated[int, Field(ge=0, le=1 << 40)]
_TensorNames = Annotated[list[Annotated[str, Field(max_length=500)]], Field(max_length=MOST_TENSORS), FailFast()]
_Sites = Annotated[list[Name], Field(min_length=1, max_length=MOST_SITES)]
_Words = Annotated[dict[Line, Line], Field(max_length=100)]
_Cases = Annotated[int, Field(ge=1, le=MOST_CASES)]
_Epochs = Annotated[int, Field(ge=1, le=10**6)]

LARGEST_LOSS = 1e9
"""A loss beyond this is that of a network that learns nothing any more, as NaN is."""


def _told_loss(value: float | None) -> float | None:
    return None if value is None or abs(value) > LARGEST_LOSS else value


_Loss = Annotated[Number | None, NONE_IF_NOT_FINITE, AfterValidator(_told_loss)]
_Fraction = Annotated[Annotated[Number, Field(ge=0, le=1)] | None, NONE_IF_NOT_FINITE]
"""A Dice, or a normalised surface Dice."""
_Metric = Annotated[Annotated[Number, Field(ge=0, le=1e9)] | None, NONE_IF_NOT_FINITE]
"""Millimetres, or a fraction."""
_Difference = Annotated[Number, Field(ge=-100, le=100)]
"""Of a Dice; the interval of two cases can be wider than a Dice is."""
_Scores = Annotated[dict[Line, _Fraction], Field(max_length=MOST_LABELS)]


class PlannerOptions(WireMessage):
    """The flags that shape the plans; each field's title is nnU-Net's name for it."""

    planner: Line = Field(title="-pl")
    gpu_memory_target: Number | None = Field(default=None, title="-gpu_memory_target")
    preprocessor: Line = Field(default="DefaultPreprocessor", title="-preprocessor_name")
    target_spacing: list[Spacing] | None = Field(
        default=None, min_length=3, max_length=3, title="-overwrite_target_spacing"
    )
    plans_name: Name | None = Field(default=None, title="-overwrite_plans_name")


class TrainingOptions(WireMessage):
    """What is trained, and must be the same at every site; each field's title is the flag that gives it."""

    trainer: Line = Field(title="-tr")
    configuration: Line = Field(title="configuration")
    validation_only: bool = Field(default=False, title="--val")


class EvaluationOptions(WireMessage):
    """How a model is evaluated, which must be the same at every site; each field's title is the flag that gives it."""

    configuration: Line = Field(title="configuration")
    checkpoint: Line = Field(title="--checkpoint")
    disable_tta: bool = Field(default=False, title="--disable_tta")
    step_size: Number = Field(default=0.5, title="-step_size")


class Hello(WireMessage):
    """How a site introduces itself. Nothing in it is about a single case."""

    longest_text: ClassVar[int] = 1 << 18

    site: Name
    instance: Line = Field(default="", description="drawn at random when the node starts: tells a restart")
    task: Task
    method: Method
    fold: Line | None = None
    cases: int = Field(
        ge=0, le=MOST_CASES, description="training cases at the site; for evaluate, its test cases that have labels"
    )
    versions: _Words
    labels: dict[Line, _Label | _Labels] = Field(max_length=MOST_LABELS)
    regions_class_order: _Labels | None = None
    channels: dict[Line, Line] = Field(max_length=MOST_CHANNELS)
    folds: int | None = Field(default=None, ge=1, le=MOST_FOLDS, description="how many folds its split, or model, has")
    has_own_splits: bool = Field(default=False, description="whether the site brings its folds")
    image_reader: Line | None = None
    planner: PlannerOptions | None = Field(default=None, description="only for plan_and_preprocess")
    fingerprint: FingerprintMode | None = Field(default=None, description="what a site tells for a common fingerprint")
    plans_digest: Line | None = Field(default=None, description="digest of the plans that training will use")
    plans_are_as_made: bool = Field(default=True, description="whether they are those that the federation made")
    plans_are_own: bool = Field(default=False, description="whether no federation has made them")
    model: Line | None = Field(default=None, description="TRAINER__PLANS__CONFIGURATION, as nnU-Net calls its folder")
    finished: list[Line] = Field(
        default_factory=list, max_length=100, description="folds whose finished training the site does not let go"
    )
    sites_digest: Line | None = Field(
        default=None, description="digest of the site's own list of sites: it takes part in masked sums only"
    )
    hides_figures: bool = Field(default=False, description="whether it tells losses and Dice for masked sums only")
    training: TrainingOptions | None = Field(default=None, description="only for train")
    evaluation: EvaluationOptions | None = Field(default=None, description="only for evaluate")

    @property
    def trained_folds(self) -> tuple[Fold, ...]:
        """The folds that its FOLD argument asks for, in order."""
        return parse_folds(str(self.fold), self.folds or FOLDS_OF_NNUNET)

    @property
    def validates_only(self) -> bool:
        """Whether the site only validates a model that is trained."""
        return self.training is not None and self.training.validation_only

    @property
    def is_aggregated(self) -> bool:
        """Whether its answers about cases, or its updates, are summed with those of other sites."""
        if self.task == "train":
            return not self.validates_only
        return self.task != "evaluate" and self.method == "FFE"

    @model_validator(mode="after")
    def _check_cases(self) -> Self:
        if self.cases < 1 and self.task != "evaluate":
            raise PydanticCustomError("cases", "a site should have cases")
        return self


class WorkReport(WireMessage):
    """How far a site is with an answer that takes long; the coordinator asks again."""

    done: int = Field(ge=0, le=10**12)
    total: int = Field(ge=0, le=10**12)
    waits_for_approval: bool = Field(default=False, description="whether a person has to agree to the answer")


class Measure(WireMessage):
    """The coordinator announces the federation's number of cases, on which depends how many voxels are sampled."""

    cases: Count


class Measured(WireMessage):
    """A site has looked at all of its cases."""

    is_two_dimensional: bool


class Query(WireMessage):
    """A question about measurements; the answer is one vector of int64."""

    longest_text: ClassVar[int] = 1 << 19

    question: Question


class SharedCases(WireMessage):
    """Spacing (mm) and shape (voxels) of each case, only sent with ``--fingerprint shared-cases``."""

    longest_text: ClassVar[int] = 15 << 20

    spacings: Annotated[list[tuple[Spacing, Spacing, Spacing]], FailFast()] = Field(min_length=1, max_length=MOST_CASES)
    shapes: Annotated[list[tuple[_Voxels, _Voxels, _Voxels]], FailFast()] = Field(min_length=1, max_length=MOST_CASES)

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        if len(self.spacings) != len(self.shapes):
            raise PydanticCustomError("cases", "spacings and shapes should be those of the same cases")
        return self


class FederationRecord(WireMessage):
    """How plans came about; every site keeps it beside them, as ``federation.json``."""

    method: Method
    sites: _Sites
    cases: Count = Field(description="cases in the federation")
    plans_digest: Line
    fingerprint_digest: Line | None = Field(
        default=None, description="of the common fingerprint, if it has made-up cases only"
    )
    versions: _Words
    given_for: Name | None = Field(
        default=None, description="dataset for which plans were made that were given; none: made by the federation"
    )
    made: Number | None = Field(default=None, description="when the site has installed them, in seconds since 1970")
    preprocessed: list[Line] | None = Field(
        default=None,
        max_length=100,
        description="configurations preprocessed for these plans; none: left to nnU-Net's own command",
    )
    data: dict[Line, Line] = Field(
        default_factory=dict,
        max_length=100,
        description="by data_identifier: digest of what in the plans has shaped the preprocessed data",
    )


class CommonPlans(WireMessage):
    """The common fingerprint and plans, as nnU-Net writes them; without plans if none were asked for.

    Plans that were given to the federation come without a fingerprint.
    """

    longest_text: ClassVar[int] = 15 << 20

    fingerprint: JsonObject | None
    plans: JsonObject | None = None
    record: FederationRecord | None = None


class PlanAlone(WireMessage):
    """The coordinator asks every site to plan for itself, and names the participating sites."""

    longest_text: ClassVar[int] = 1 << 19

    sites: _Sites
    cases: Count = Field(description="cases in the federation")


class Installed(WireMessage):
    """A site has installed fingerprint and plans and preprocessed its cases; the digest proves which plans."""

    plans_digest: Line | None = None


class FoldRequest(WireMessage):
    """The coordinator names the fold that it is about to train."""

    fold: _Fold


class TrainingOffer(WireMessage):
    """The schedule of a site's trainer by default."""

    epochs: _Epochs
    iterations_per_epoch: Count
    val_iterations_per_epoch: Count


OptimizerStateName = Literal["average", "local", "reset"]


class Schedule(WireMessage):
    """The coordinator's numbers for a fold, which hold for every node."""

    rounds: int = Field(ge=1, le=10**6)
    local_epochs: int = Field(ge=1, le=10**6)
    iterations_per_epoch: Count
    val_iterations_per_epoch: Count
    proximal_mu: Number = Field(default=0, ge=0, description="FedProx's weight of the distance to the global model")
    save_every: Count = Field(default=1, description="rounds between two states that are kept on disk")
    optimizer_state: OptimizerStateName = Field(
        default="local", description="whether momentum is averaged with the weights, stays, or is forgotten"
    )

    @model_validator(mode="after")
    def _check_cost(self) -> Self:
        iterations = self.epochs * (self.iterations_per_epoch + self.val_iterations_per_epoch)
        if self.epochs > MOST_EPOCHS or iterations > MOST_ITERATIONS:
            raise PydanticCustomError(
                "cost",
                "rounds {rounds}, local_epochs {local_epochs}, iterations_per_epoch {iterations_per_epoch}, "
                f"val_iterations_per_epoch {{val_iterations_per_epoch}}: at most {MOST_EPOCHS} epochs and "
                f"{MOST_ITERATIONS} iterations in all",
                self.model_dump(),
            )
        return self

    @property
    def epochs(self) -> int:
        """Epochs of the whole federation, over which the learning rate decays."""
        return self.rounds * self.local_epochs


class Start(WireMessage):
    """A site shall get ready for the next round of a fold's training."""

    fold: _Fold
    schedule: Schedule
    run: Name = Field(description="names this training: what a node has kept of another one is of no use")
    completed: _Round = Field(description="rounds that are done")
    repeats: _Round = Field(
        default=0, description="how often a round began anew because the sum of its masked updates was not opened"
    )

    @model_validator(mode="after")
    def _check_completed(self) -> Self:
        if self.completed > self.schedule.rounds:
            raise PydanticCustomError(
                "completed",
                "completed {completed} should be no more than rounds {rounds}",
                {"completed": self.completed, "rounds": self.schedule.rounds},
            )
        return self


class Ready(WireMessage):
    """A node has its network and its data loaders for the fold."""

    longest_text: ClassVar[int] = 1 << 23

    tensors: Annotated[list[TensorSpec], FailFast()] = Field(
        min_length=1,
        max_length=MOST_TENSORS,
        description="layout of the network, and of its optimizer's momentum if that is shared",
    )
    normalization: _TensorNames = Field(
        default_factory=list, description="those of the tensors that belong to layers of normalization"
    )
    training_cases: _Cases
    pretrained: bool
    restored: bool = Field(default=False, description="whether it goes on exactly from where the last round ended")
    has_model: bool = Field(default=False, description="whether it has the global model, and need not be given it")
    is_opened: bool = Field(
        default=False, description="whether it has told the key that opens the sum of the update that it holds"
    )

    @model_validator(mode="after")
    def _check_tensors(self) -> Self:
        names = [tensor.name for tensor in self.tensors]
        _check_distinct(names)
        if not set(self.normalization) <= set(names):
            raise PydanticCustomError("normalization", "normalization should be some of the tensors")
        if sum(tensor.size for tensor in self.tensors) > MOST_ELEMENTS:
            raise PydanticCustomError("size", "tensors should not have that many elements")
        return self


class ModelDescription(WireMessage):
    """The description of a network, for the export of the global model; it contains no case data.

    Trainer, configuration, labels and channels are those of the sites' introductions.
    """

    longest_text: ClassVar[int] = 15 << 20

    plans: JsonObject = Field(description="without the name of the site's dataset")
    fingerprint: JsonObject | None = Field(default=None, description="the common one, as the coordinator has made it")
    file_ending: Line
    image_reader: Line | None = None
    mirroring_axes: Annotated[list[Annotated[int, Field(ge=0, le=2)]], Field(max_length=3)] | None = None
    entries: Annotated[list[Listing | TensorSpec], FailFast()] = Field(
        min_length=1, max_length=MOST_LISTED, description="of the state dict, in order"
    )


class Sharing(WireMessage):
    """The tensors that a site shares: their names, for each of its groups."""

    longest_text: ClassVar[int] = 1 << 24

    groups: Annotated[list[_TensorNames], FailFast()] = Field(max_length=MOST_TENSORS)
    members: list[_Sites] | None = Field(
        default=None,
        max_length=MOST_TENSORS,
        description="sites of each group, and of what stays; none: updates are not masked",
    )
    encoding: EncodingName
    at_end: _TensorNames = Field(
        default_factory=list,
        description="what stays at the site, and is averaged once after the last round, for the model that is exported",
    )

    @model_validator(mode="after")
    def _check_groups(self) -> Self:
        _check_distinct([name for group in self.groups for name in group])
        _check_distinct(self.at_end)
        return self


class Shared(WireMessage):
    """A site knows what it shares; digests of its layout of each group prove that it means the same.

    If anything is averaged at the end, the last digest is that of its layout.
    """

    longest_text: ClassVar[int] = 1 << 21

    digests: Annotated[list[Line], FailFast()] = Field(max_length=MOST_TENSORS)


class ModelPart(WireMessage):
    """A part of the weights of one of a site's groups; the bytes travel beside it.

    Round 0 is the exchange of the first global model, always in float32.
    """

    round: _Round
    group: int = Field(ge=0, lt=MOST_TENSORS)
    start: _Element
    stop: _Element


class Accepted(WireMessage):
    """All parts of a model have been handed over: it is the global one after this round."""

    round: _Round


class RoundRequest(WireMessage):
    """The round that a site shall train, or whose global model it shall validate."""

    round: int = Field(ge=1, le=10**6)


OwnModel = Literal["personal", "alone"]
"""A model of one site: the federation's, trained some more there, or one that has never left it."""


class OwnTraining(WireMessage):
    """A site shall train a model of its own beside that of a federated training which it has finished."""

    fold: _Fold
    run: Name = Field(description="names the federated training")
    model: OwnModel
    schedule: Schedule = Field(description="in which a round is an epoch, and nothing is exchanged")


class OwnTrained(WireMessage):
    """A site has trained, and validated, a model of its own; nothing of it leaves."""

    epochs: _Epochs | None = Field(description="none: it could not, and its own output says why")


class Support(WireMessage):
    """Number of cases behind the figures of a report; ``None`` if withheld, too."""

    training: Count | None = Field(default=None, description="behind the loss of training")
    validation: int | None = Field(default=None, ge=0, le=10**9)
    labels: dict[Line, Annotated[int, Field(ge=0, le=10**9)] | None] = Field(
        default_factory=dict, max_length=MOST_LABELS, description="validation cases that have a label or region"
    )


class RoundReport(WireMessage):
    """A site's view of one round; Dice is nnU-Net's pseudo Dice of the global model, per label or region."""

    longest_text: ClassVar[int] = 1 << 18

    train_loss: _Loss
    val_loss: _Loss
    mean_dice: _Fraction
    dice: _Scores
    support: Support | None = None


class ValidationReport(WireMessage):
    """Mean Dice per label or region of nnU-Net's full validation; ``None`` where no case has the label."""

    longest_text: ClassVar[int] = 1 << 18

    mean_dice: _Fraction
    dice: _Scores
    support: Support | None = None


class GainRequest(WireMessage):
    """The coordinator asks for a site's benefit from a federated training, compared with these own models."""

    fold: _Fold
    run: Name
    models: list[OwnModel] = Field(max_length=2)


class PairedDifference(WireMessage):
    """Mean over cases of the difference between two models' Dice, and its 95 % confidence interval."""

    mean: _Difference
    low: _Difference | None
    high: _Difference | None


class Gain(WireMessage):
    """Mean Dice of a site's models over the validation cases on which each of them has one."""

    federated: _Fraction = None
    personal: _Fraction = None
    alone: _Fraction = None
    personal_over_federated: PairedDifference | None = None
    federated_over_alone: PairedDifference | None = None
    personal_over_alone: PairedDifference | None = None
    cases: int | None = Field(default=None, ge=0, le=MOST_CASES)
    fewest: int | None = Field(
        default=None, ge=0, le=MOST_CASES, description="cases in which these figures differ from others that are told"
    )


class GainReport(WireMessage):
    """A site's benefit from a federation: means over cases, nothing about a single one."""

    longest_text: ClassVar[int] = 1 << 20

    labels: dict[Line, Gain] = Field(default_factory=dict, max_length=MOST_LABELS)
    overall: Gain = Gain()
    advice: Literal["federated", "personal", "alone"] | None = Field(default=None, description="the model to use")
    is_certain: bool = Field(default=False, description="whether it is better by more than chance")


class EvaluationRequest(WireMessage):
    """The coordinator asks how good the model is on the site's test cases."""

    nsd_tolerance: Number | None = Field(
        default=None, gt=0, description="mm up to which surfaces count as equal; none: no normalised surface Dice"
    )


class MetricSummary(WireMessage):
    """A metric over the test cases of a site; all ``None`` if too few cases have a value."""

    mean: _Metric = None
    std: _Metric = None
    median: _Metric = None
    cases: Annotated[int, Field(ge=1, le=MOST_CASES * MOST_SITES)] | None = None


class MetricSummaries(WireMessage):
    """All metrics of one label; normalised surface Dice only where a tolerance was given."""

    dice: MetricSummary
    hd95: MetricSummary
    assd: MetricSummary
    nsd: MetricSummary | None = None

    @model_validator(mode="after")
    def _check_fractions(self) -> Self:
        for summary in filter(None, (self.dice, self.nsd)):
            if any(value is not None and value > 1 for value in (summary.mean, summary.std, summary.median)):
                raise PydanticCustomError("fraction", "a Dice, or normalised surface Dice, should not be above 1")
        return self

    @property
    def cases(self) -> int:
        """The largest number of cases behind any reported figure."""
        summaries = (self.dice, self.hd95, self.assd, self.nsd)
        return max(summary.cases or 0 for summary in summaries if summary is not None)


class EvaluationReport(WireMessage):
    """How good a model is on a site's test cases: aggregates over cases, nothing about a single one."""

    longest_text: ClassVar[int] = 1 << 20

    labels: dict[Line, MetricSummaries] = Field(max_length=MOST_LABELS, description="by label or region")
    overall: MetricSummaries = Field(description="of each case's mean over labels")


class Farewell(WireMessage):
    """The coordinator's last word: why the federation ends, if not because all is done."""

    error: Told | None = None


def _check_distinct(names: list[str]) -> None:
    """Refuse a tensor that is listed twice."""
    if len(set(names)) < len(names):
        raise PydanticCustomError("distinct", "no tensor should be there twice")
