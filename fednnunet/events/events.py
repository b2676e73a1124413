"""The schema of events, which the coordinator emits and displays and files consume."""

from typing import Annotated, Literal, Protocol

from pydantic import Field, TypeAdapter

from fednnunet.protocol.messages import EvaluationReport, GainReport, RoundReport, ValidationReport
from fednnunet.schema import JsonObject, Message

_MANY = 10_000


class Contact(Message):
    """Connection state of a site; `at` is the time of the last contact, in seconds since 1970."""

    connected: bool
    at: float
    waits_for_approval: bool = False


class SiteJoined(Message):
    """A site was admitted."""

    event: Literal["site_joined"] = "site_joined"
    site: str
    cases: int
    joined: int
    expected: int


StageKind = Literal[
    "reading",
    "fingerprint",
    "planning",
    "planning_apart",
    "installing",
    "preprocessing",
    "preparing",
    "training",
    "validating",
    "personal",
    "alone",
    "testing",
]
"""Stages of the tasks: `planning_apart` where each site plans for itself, `personal` and `alone` for own models."""


class StageStarted(Message):
    """A stage of the task begins; `fold` is the one that it works on.

    `rounds` is ``None`` for a stage that has none; `first_round` is above 1 when a training is continued.
    """

    event: Literal["stage_started"] = "stage_started"
    stage: StageKind
    fold: str | None = None
    rounds: int | None = None
    first_round: int = 1


class SiteProgress(Message):
    """Cases, or other units of work, that a site has done."""

    done: int
    total: int


class WorkProgressed(Message):
    """Progress of the sites with long work; sites that have not reported yet are missing."""

    event: Literal["work_progressed"] = "work_progressed"
    sites: dict[str, SiteProgress]

    @property
    def done(self) -> int:
        """Units done at all sites."""
        return sum(site.done for site in self.sites.values())

    @property
    def total(self) -> int:
        """Units of all sites."""
        return sum(site.total for site in self.sites.values())


class FingerprintFound(Message):
    """The common fingerprint is known: how many questions it took, and how many bytes each site answered in all."""

    event: Literal["fingerprint_found"] = "fingerprint_found"
    questions: int
    answered_bytes: dict[str, int]


class PlansAgreed(Message):
    """The common fingerprint, and the plans if there are any, are known; both as nnU-Net writes them.

    Neither exists where every site plans for itself.
    """

    event: Literal["plans_agreed"] = "plans_agreed"
    fingerprint: JsonObject | None = None
    plans: JsonObject | None = None


class SiteShare(Message):
    """The part of a site's network that is averaged with other sites."""

    tensors: int
    of_tensors: int
    parameters: int
    of_parameters: int


class SharingAgreed(Message):
    """It is known which part of each site's network is averaged."""

    event: Literal["sharing_agreed"] = "sharing_agreed"
    sites: dict[str, SiteShare]


class SiteLeftOut(Message):
    """A site could not do what a round asked of it; round 0 is the preparation."""

    event: Literal["site_left_out"] = "site_left_out"
    site: str
    round: int
    reason: str


class SiteTakenIn(Message):
    """A site that was missing has the global model of the last complete round, and takes part again."""

    event: Literal["site_taken_in"] = "site_taken_in"
    site: str
    round: int


class UpdateOutOfLine(Message):
    """A site's update is many times as large as is usual among the others.

    `ratio` is ``None`` where the update changes the model while those of most others do not.
    """

    event: Literal["update_out_of_line"] = "update_out_of_line"
    site: str
    round: int
    ratio: float | None

    @property
    def finding(self) -> str:
        """The update in relation to the others, in words."""
        if self.ratio is None:
            return "changes the model, while those of most others do not"
        times = f"{self.ratio:.0f}" if self.ratio < _MANY else f"{self.ratio:.0e}"
        return f"is {times} times the median of the others"


class SitesAwaited(Message):
    """The run waits for some of these sites; an empty list ends the wait."""

    event: Literal["sites_awaited"] = "sites_awaited"
    sites: list[str]
    present: int
    needed: int


class ApprovalAwaited(Message):
    """A person at a site has to agree to what it would send, or has said yes or no."""

    event: Literal["approval_awaited"] = "approval_awaited"
    site: str
    waits: bool


class RoundTiming(Message):
    """Breakdown of a round's duration, in seconds.

    A site waits for the rest of the round.
    """

    training: dict[str, float] = Field(description="of each site, until its answer had arrived")
    moving: float = Field(description="of updates and global model, apart from `averaging`")
    averaging: float
    validating: dict[str, float] = Field(description="of each site, until its answer had arrived")


class Traffic(Message):
    """Bytes that a round's messages between coordinator and a site have held."""

    to_site: int
    from_site: int


class RoundCompleted(Message):
    """The sites that took part have validated the global model of a round."""

    event: Literal["round_completed"] = "round_completed"
    round: int
    rounds: int
    seconds: float
    sites: dict[str, RoundReport]
    left_out: dict[str, str] = Field(default_factory=dict, description="sites that took no part, and why")
    timing: RoundTiming | None = None
    traffic: dict[str, Traffic] = Field(default_factory=dict)


class FoldValidated(Message):
    """All sites have run nnU-Net's full validation of a fold's final model."""

    event: Literal["fold_validated"] = "fold_validated"
    fold: str
    sites: dict[str, ValidationReport]


class GainTold(Message):
    """Sites have compared the federation's model of a fold with models of their own."""

    event: Literal["gain_told"] = "gain_told"
    fold: str
    sites: dict[str, GainReport]


class ModelExported(Message):
    """The coordinator has written the global model as nnU-Net's results folder, and as nnU-Net's zip archive."""

    event: Literal["model_exported"] = "model_exported"
    folder: str
    archive: str
    folds: list[str]
    caution: str | None = Field(default=None, description="what whoever uses it should know")


class SitesEvaluated(Message):
    """Sites have tested a model on their own test cases; `left_out` gives the reason for each that has not."""

    event: Literal["sites_evaluated"] = "sites_evaluated"
    fold: str
    folds: int | None = Field(default=None, description="how many there are, where FOLD is ``all``")
    checkpoint: str
    sites: dict[str, EvaluationReport]
    left_out: dict[str, str] = Field(default_factory=dict)


class Finished(Message):
    """The task is done."""

    event: Literal["finished"] = "finished"
    seconds: float


Event = (
    SiteJoined
    | StageStarted
    | WorkProgressed
    | FingerprintFound
    | PlansAgreed
    | SharingAgreed
    | SiteLeftOut
    | SiteTakenIn
    | UpdateOutOfLine
    | SitesAwaited
    | ApprovalAwaited
    | RoundCompleted
    | FoldValidated
    | ModelExported
    | GainTold
    | SitesEvaluated
    | Finished
)
ANY_EVENT: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="event")])


class EventSink(Protocol):
    """Anything that wants to know what happens."""

    def emit(self, event: Event) -> None:
        """Take one event."""
