"""What crosses the network besides arrays, as schemas that both ends validate against.

Every message is JSON made by one of these classes; unknown fields and wrong types are refused on arrival.
"""

from typing import Any, Literal

from pydantic import Field

from fednnunet.fingerprint.questions import Question
from fednnunet.message import Message
from fednnunet.weights.encoding import EncodingName
from fednnunet.weights.layout import TensorSpec

Task = Literal["extract_fingerprint", "plan_and_preprocess", "train"]
TASKS: tuple[Task, ...] = ("extract_fingerprint", "plan_and_preprocess", "train")

Method = Literal["FFE", "AsymFedAvg"]
"""One fingerprint and one set of plans for all sites, or a set of its own for each."""

FingerprintMode = Literal["exact", "shared-cases"]
FINGERPRINT_MODES: tuple[FingerprintMode, ...] = ("exact", "shared-cases")
"""Whether sites answer counts only, or also tell spacing and shape of each case."""


class PlannerOptions(Message):
    """The flags that shape the plans; each field's title is nnU-Net's name for it."""

    planner: str = Field(title="-pl")
    gpu_memory_target: float | None = Field(default=None, title="-gpu_memory_target")
    preprocessor: str = Field(default="DefaultPreprocessor", title="-preprocessor_name")
    target_spacing: list[float] | None = Field(
        default=None, min_length=3, max_length=3, title="-overwrite_target_spacing"
    )
    plans_name: str | None = Field(default=None, title="-overwrite_plans_name")


class Hello(Message):
    """How a site introduces itself. Nothing in it is about a single case."""

    site: str = Field(min_length=1)
    instance: str = Field(default="", description="drawn at random when the node starts: tells a restart")
    task: Task
    method: Method
    fold: str | None = None
    cases: int = Field(ge=1, description="training cases at the site")
    versions: dict[str, str]
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] | None = None
    channels: dict[str, str]
    has_own_splits: bool = Field(default=False, description="whether the site brings its folds")
    image_reader: str | None = None
    planner: PlannerOptions | None = None
    fingerprint: FingerprintMode | None = Field(default=None, description="what a site tells for a common fingerprint")
    plans_digest: str | None = Field(default=None, description="digest of the plans that training will use")
    plans_are_as_made: bool = Field(default=True, description="whether they are those that the federation made")
    options: dict[str, str | bool | None] = Field(
        default_factory=dict, description="further flags that must be the same at every site"
    )


class WorkReport(Message):
    """How far a site is with an answer that takes long; the coordinator asks again."""

    done: int = Field(ge=0)
    total: int = Field(ge=0)


class Measure(Message):
    """The coordinator announces the federation's number of cases, on which depends how many voxels are sampled."""

    cases: int = Field(ge=1)


class Measured(Message):
    """A site has looked at all of its cases."""

    is_two_dimensional: bool


class Query(Message):
    """A question about what was measured; the answer is one vector of int64."""

    question: Question


class SharedCases(Message):
    """Spacing (mm) and shape (voxels) of each case, only sent with ``--fingerprint shared-cases``."""

    spacings: list[tuple[float, float, float]] = Field(min_length=1)
    shapes: list[tuple[int, int, int]] = Field(min_length=1)


class FederationRecord(Message):
    """How plans came about; every site keeps it beside them, as ``federation.json``."""

    method: Method
    sites: list[str] = Field(min_length=1)
    cases: int = Field(ge=1, description="cases in the federation")
    plans_digest: str
    versions: dict[str, str]
    preprocessed: list[str] | None = Field(
        default=None, description="configurations preprocessed for these plans; none: left to nnU-Net's own command"
    )


class CommonPlans(Message):
    """The common fingerprint and plans, as nnU-Net writes them; without plans if none were asked for."""

    fingerprint: dict[str, Any]
    plans: dict[str, Any] | None = None
    record: FederationRecord | None = None


class PlanAlone(Message):
    """Every site shall plan for itself; the coordinator tells who takes part."""

    sites: list[str] = Field(min_length=1)
    cases: int = Field(ge=1, description="cases in the federation")


class Installed(Message):
    """A site has installed fingerprint and plans and preprocessed its cases; the digest proves which plans."""

    plans_digest: str | None = None


class FoldRequest(Message):
    """The coordinator names the fold that it is about to train."""

    fold: int | Literal["all"]


class TrainingOffer(Message):
    """What a site's trainer would do if nobody told it otherwise."""

    epochs: int = Field(ge=1)
    iterations_per_epoch: int = Field(ge=1)
    val_iterations_per_epoch: int = Field(ge=1)


class Schedule(Message):
    """The coordinator's numbers for a fold, which hold for every node."""

    rounds: int = Field(ge=1)
    local_epochs: int = Field(ge=1)
    iterations_per_epoch: int = Field(ge=1)
    val_iterations_per_epoch: int = Field(ge=1)
    proximal_mu: float = Field(default=0, ge=0, description="FedProx's weight of the distance to the global model")
    save_every: int = Field(default=1, ge=1, description="rounds between two states that are kept on disk")

    @property
    def epochs(self) -> int:
        """Epochs of the whole federation, over which the learning rate decays."""
        return self.rounds * self.local_epochs


class Start(Message):
    """A site shall get ready for the next round of a fold's training."""

    fold: int | Literal["all"]
    schedule: Schedule
    run: str = Field(min_length=1, description="names this training: what a node has kept of another one is of no use")
    completed: int = Field(ge=0, description="rounds that are done")


class Ready(Message):
    """A node has its network and its data loaders for the fold."""

    tensors: list[TensorSpec] = Field(min_length=1, description="layout of the network")
    training_cases: int = Field(ge=1)
    pretrained: bool
    restored: bool = Field(default=False, description="whether it goes on exactly from where the last round ended")
    has_model: bool = Field(default=False, description="whether it has the global model, and need not be given it")


class Sharing(Message):
    """What a site shares: the names of the tensors of each group that it belongs to."""

    groups: list[list[str]]
    encoding: EncodingName


class Shared(Message):
    """A site knows what it shares; digests of its layout of each group prove that it means the same."""

    digests: list[str]


class ModelPart(Message):
    """A part of the weights of one of a site's groups; the bytes travel beside it.

    Round 0 is the exchange of the first global model, always in float32.
    """

    round: int = Field(ge=0)
    group: int = Field(ge=0)
    start: int = Field(ge=0)
    stop: int = Field(ge=1)


class Accepted(Message):
    """All parts of a model have been handed over: it is the global one after this round."""

    round: int = Field(ge=0)


class RoundRequest(Message):
    """The round that a site shall train, or whose global model it shall validate."""

    round: int = Field(ge=1)


class RoundReport(Message):
    """A site's view of one round; Dice is nnU-Net's pseudo Dice of the global model, per label or region."""

    train_loss: float | None
    val_loss: float | None
    mean_dice: float | None
    dice: dict[str, float | None]


class ValidationReport(Message):
    """Mean Dice per label or region of nnU-Net's full validation; ``None`` where no case has the label."""

    mean_dice: float | None
    dice: dict[str, float | None]


class Farewell(Message):
    """The coordinator's last word: why the federation ends, if not because all is done."""

    error: str | None = None
