"""What crosses the network besides arrays, as schemas that both ends validate against.

Every message is JSON made by one of these classes; unknown fields and wrong types are refused on arrival.
"""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fednnunet.errors import FednnUNetError

Task = Literal["extract_fingerprint", "plan_and_preprocess", "train"]
TASKS: tuple[Task, ...] = ("extract_fingerprint", "plan_and_preprocess", "train")


class Message(BaseModel):
    """Base of all messages: immutable, and strict about its fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="null")

    def to_json(self) -> str:
        """Return the message as JSON text; NaN and infinities become ``null``."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the message that `text` holds.

        Raises
        ------
        FednnUNetError
            If `text` is not a message of this class.
        """
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "message"
            raise FednnUNetError(f"A {cls.__name__} message is malformed: {where}: {first['msg']}.") from error


class PlannerOptions(Message):
    """The flags that shape the plans; each field's title is nnU-Net's name for it."""

    planner: str = Field(title="-pl")
    gpu_memory_target: float | None = Field(default=None, title="-gpu_memory_target")
    preprocessor: str = Field(title="-preprocessor_name")
    target_spacing: list[float] | None = Field(
        default=None, min_length=3, max_length=3, title="-overwrite_target_spacing"
    )
    plans_name: str | None = Field(default=None, title="-overwrite_plans_name")


class Hello(Message):
    """How a site introduces itself. Nothing in it is about a single case."""

    site: str = Field(min_length=1)
    task: Task
    fold: str | None = None
    cases: int = Field(ge=1, description="training cases at the site")
    versions: dict[str, str]
    labels: dict[str, int | list[int]]
    regions_class_order: list[int] | None = None
    channels: dict[str, str]
    image_reader: str | None = None
    planner: PlannerOptions | None = None
    plans_digest: str | None = None
    options: dict[str, str | bool | None] = Field(
        default_factory=dict, description="further flags that must be the same at every site"
    )


class CommonPlans(Message):
    """The common plans, as nnU-Net's planner wrote them at the coordinator; absent if no plans were asked for."""

    plans: dict[str, Any] | None = None


class Installed(Message):
    """A site has installed the common fingerprint and plans; the digest proves which."""

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

    @property
    def epochs(self) -> int:
        """Epochs of the whole federation, over which the learning rate decays."""
        return self.rounds * self.local_epochs


class Ready(Message):
    """A node has its network and its data loaders for the fold."""

    layout_digest: str
    training_cases: int = Field(ge=1)
    completed_epochs: int = Field(ge=0)
    pretrained: bool


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
