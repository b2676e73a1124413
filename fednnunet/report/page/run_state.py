"""What the events of a run come to: rounds by fold, the last word of everything else."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self

from fednnunet.report.events import (
    ApprovalAwaited,
    Event,
    Finished,
    FoldValidated,
    GainTold,
    ModelExported,
    PlansAgreed,
    RoundCompleted,
    SharingAgreed,
    SiteJoined,
    SiteLeftOut,
    SitesAwaited,
    SitesEvaluated,
    SiteTakenIn,
    StageStarted,
    UpdateOutOfLine,
    WorkProgressed,
)
from fednnunet.report.formats import RoundTimes, duration

_TRAINING = "training "


@dataclass
class FoldRounds:
    """The rounds of a fold's training."""

    title: str
    rounds: int
    completed: dict[int, RoundCompleted] = field(default_factory=dict)
    left_out: dict[tuple[int, str], str] = field(default_factory=dict)

    def forget_from(self, first: int) -> None:
        """Forget the rounds from this one on: they come again."""
        self.completed = {number: event for number, event in self.completed.items() if number < first}
        self.left_out = {key: reason for key, reason in self.left_out.items() if key[0] < first}


@dataclass(frozen=True)
class Trouble:
    """A line of the table of failures."""

    stage: str
    round: int
    sites: str
    what: str
    reason: str


@dataclass
class RunState:
    """What is known of a run after some of its events."""

    sites: dict[str, int | None] = field(default_factory=dict)
    stage: str = "waiting for sites"
    folds: dict[str, FoldRounds] = field(default_factory=dict)
    fold: FoldRounds | None = None
    awaited: SitesAwaited | None = None
    approvals: set[str] = field(default_factory=set)
    """Sites where a person has to agree to what would be sent."""
    work: WorkProgressed | None = None
    troubles: list[Trouble] = field(default_factory=list)
    fingerprint: PlansAgreed | None = None
    plans: PlansAgreed | None = None
    sharing: SharingAgreed | None = None
    validated: dict[str, FoldValidated] = field(default_factory=dict)
    gains: dict[str, GainTold] = field(default_factory=dict)
    exported: ModelExported | None = None
    evaluated: dict[tuple[str, str], SitesEvaluated] = field(default_factory=dict)
    finished: Finished | None = None

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Return the state after these events."""
        state = cls()
        for event in events:
            state.take(event)
        return state

    def take(self, event: Event) -> None:
        """Take the next event."""
        match event:
            case SiteJoined():
                self.sites[event.site] = event.cases
                self.finished = None
            case StageStarted():
                self._begin(event)
            case WorkProgressed():
                self.work = event
            case RoundCompleted():
                self._complete(event)
            case SiteLeftOut() | UpdateOutOfLine() | SitesAwaited():
                self._note(event)
            case ApprovalAwaited():
                self.approvals = {site for site in {*self.approvals, event.site} if site != event.site or event.waits}
            case SiteTakenIn():
                self.awaited = None
            case PlansAgreed():
                self.fingerprint = event if event.fingerprint is not None else self.fingerprint
                self.plans = event if event.plans is not None else self.plans
            case SharingAgreed():
                self.sharing = event
            case FoldValidated():
                self.validated[event.fold] = event
            case GainTold():
                self.gains[event.fold] = event
            case ModelExported():
                self.exported = event
            case SitesEvaluated():
                self._know(event.sites)
                self.evaluated[event.fold, event.checkpoint] = event
            case Finished():
                self.finished, self.awaited, self.work, self.approvals = event, None, None, set()

    @property
    def names(self) -> list[str]:
        """All sites, in the order of their names, as the coordinator has them."""
        return sorted(self.sites)

    @property
    def last_round(self) -> RoundCompleted | None:
        """The last complete round of the current fold."""
        return self.fold.completed[max(self.fold.completed)] if self.fold and self.fold.completed else None

    @property
    def remaining(self) -> float | None:
        """Seconds until the last round of the current fold is done, as its last rounds went."""
        if self.fold is None or self.finished is not None or not self.stage.startswith(_TRAINING):
            return None
        times, done = RoundTimes(), sorted(self.fold.completed)
        for number in done:
            times.add(self.fold.completed[number].seconds)
        left = self.fold.rounds - (done[-1] if done else 0)
        return times.remaining(left) if left > 0 else None

    @property
    def condition(self) -> str:
        """Whether the run goes on, and where it is, in one line."""
        if self.finished is not None:
            return f"finished after {duration(self.finished.seconds)}"
        parts = [self.stage]
        if self.fold is not None and self.stage.startswith(_TRAINING):
            parts.append(f"round {max(self.fold.completed, default=0)}/{self.fold.rounds}")
        if self.work is not None and self.work.total:
            parts.append(f"{self.work.done} of {self.work.total} cases")
        if self.approvals:
            parts.append(f"waiting for approval at {', '.join(sorted(self.approvals))}")
        if self.awaited is not None:
            parts.append(
                f"waiting for {', '.join(self.awaited.sites)}: {self.awaited.present} of {self.awaited.needed} "
                "sites are ready"
            )
        elif self.remaining is not None:
            parts.append(f"about {duration(self.remaining)} left")
        return " · ".join(parts)

    def _begin(self, event: StageStarted) -> None:
        self.stage, self.work, self.finished, self.awaited = event.title, None, None, None
        if event.rounds is None:
            return
        title = event.title.removeprefix(_TRAINING)
        fold = self.folds.setdefault(title, FoldRounds(title, event.rounds))
        fold.rounds = event.rounds
        fold.forget_from(event.first_round)
        self.fold = fold

    def _complete(self, event: RoundCompleted) -> None:
        self._know([*event.sites, *event.left_out])
        if self.fold is None:
            self.fold = self.folds.setdefault("", FoldRounds("", event.rounds))
        self.fold.rounds = event.rounds
        self.fold.completed[event.round] = event
        self.awaited = None

    def _note(self, event: SiteLeftOut | UpdateOutOfLine | SitesAwaited) -> None:
        stage = self.stage.removeprefix(_TRAINING)
        match event:
            case SiteLeftOut():
                self._know([event.site])
                if self.fold is not None:
                    self.fold.left_out[event.round, event.site] = event.reason
                self.troubles.append(Trouble(stage, event.round, event.site, "left out", event.reason))
            case UpdateOutOfLine():
                reason = f"its update {event.finding}"
                self.troubles.append(Trouble(stage, event.round, event.site, "outlier update", reason))
            case SitesAwaited():
                self.awaited = event if event.sites else None
                if event.sites:
                    number = max(self.fold.completed, default=0) + 1 if self.fold is not None else 0
                    reason = f"{event.present} of {event.needed} sites are ready"
                    self.troubles.append(Trouble(stage, number, ", ".join(event.sites), "awaited", reason))

    def _know(self, sites: Iterable[str]) -> None:
        for site in sites:
            self.sites.setdefault(site, None)
