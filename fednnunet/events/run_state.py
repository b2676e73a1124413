"""Reduces the events of a run to its state, for all displays, files and pages."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, TypeAlias

from fednnunet.events.events import (
    ApprovalAwaited,
    Event,
    FingerprintFound,
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

ROUNDS_FOR_ETA = 10

Milestone: TypeAlias = (
    SiteJoined
    | StageStarted
    | FingerprintFound
    | PlansAgreed
    | FoldValidated
    | GainTold
    | ModelExported
    | SitesEvaluated
    | Finished
)
"""An event after which the run is somewhere else."""


@dataclass
class FoldRounds:
    """The rounds of a fold's training.

    Attributes
    ----------
    fold
        The fold, ``None`` if no event has named it.
    rounds
        How many there are.
    done
        Number of the last complete one.
    completed
        The complete rounds, by number, ascending.
    left_out
        Why a site was left out, by round and site.
    """

    fold: str | None
    rounds: int
    done: int = 0
    completed: dict[int, RoundCompleted] = field(default_factory=dict)
    left_out: dict[tuple[int, str], str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name for people; empty if no event has named it."""
        return "" if self.fold is None else f"fold {self.fold}"

    @property
    def remaining(self) -> float | None:
        """Seconds until the last round is done, ``None`` before the first one and after the last.

        The median of the last rounds is robust against the first one, which compiles and warms up, and against a
        single one with a slow disk.
        """
        seconds = [event.seconds for event in self.completed.values()][-ROUNDS_FOR_ETA:]
        left = self.rounds - self.done
        return statistics.median(seconds) * left if seconds and left > 0 else None

    def begin(self, rounds: int, first: int) -> None:
        """Forget the rounds from `first` on: they come again."""
        self.rounds, self.done = rounds, first - 1
        self.completed = {number: event for number, event in self.completed.items() if number < first}
        self.left_out = {key: reason for key, reason in self.left_out.items() if key[0] < first}

    def complete(self, event: RoundCompleted) -> None:
        """Take a complete round."""
        self.rounds, self.done = event.rounds, event.round
        self.completed[event.round] = event


@dataclass(frozen=True)
class Trouble:
    """Something that has gone wrong, and where the run was: its stage, and the number of the round, or 0."""

    event: SiteLeftOut | UpdateOutOfLine | SitesAwaited
    stage: StageStarted | None
    round: int


@dataclass
class RunState:
    """State of a run after some of its events.

    Attributes
    ----------
    sites
        Number of cases of each site, ``None`` where it is not known.
    latest
        The last milestone; of sites that join, only before the first stage.
    stage
        The current stage.
    folds
        The rounds of each fold.
    fold
        The fold whose rounds began last.
    dice
        Last mean pseudo Dice of each site.
    awaited
        Who is waited for.
    approvals
        Sites where a person has to agree to what would be sent.
    work
        How far the sites are with the work of the current stage.
    troubles
        All that has gone wrong, in order.
    """

    sites: dict[str, int | None] = field(default_factory=dict)
    latest: Milestone | None = None
    stage: StageStarted | None = None
    folds: dict[str | None, FoldRounds] = field(default_factory=dict)
    fold: FoldRounds | None = None
    dice: dict[str, float | None] = field(default_factory=dict)
    awaited: SitesAwaited | None = None
    approvals: set[str] = field(default_factory=set)
    work: WorkProgressed | None = None
    troubles: list[Trouble] = field(default_factory=list)
    fingerprint: PlansAgreed | None = None
    plans: PlansAgreed | None = None
    sharing: SharingAgreed | None = None
    validated: dict[str, FoldValidated] = field(default_factory=dict)
    gains: dict[str, GainTold] = field(default_factory=dict)
    exported: ModelExported | None = None
    evaluated: dict[tuple[str, str], SitesEvaluated] = field(default_factory=dict)

    @classmethod
    def of(cls, events: Iterable[Event]) -> Self:
        """Return the state after these events."""
        state = cls()
        for event in events:
            state.take(event)
        return state

    def take(self, event: Event) -> None:
        """Take the next event."""
        if isinstance(event, Milestone) and not isinstance(event, SiteJoined):
            self.latest, self.work = event, None
        match event:
            case SiteJoined():
                self._join(event)
            case StageStarted():
                self._begin(event)
            case WorkProgressed():
                self.work = event
            case RoundCompleted():
                self._complete(event)
            case SiteLeftOut() | UpdateOutOfLine():
                self._note(event)
            case SitesAwaited():
                self._await(event)
            case SiteTakenIn():
                self._take_in(event.site)
            case ApprovalAwaited():
                self.approvals = {*self.approvals, event.site} if event.waits else self.approvals - {event.site}
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
            case FingerprintFound():
                pass  # a milestone, no more
            case Finished():
                self.awaited, self.approvals = None, set()

    @property
    def names(self) -> list[str]:
        """All sites, in the order of their names, as the coordinator has them."""
        return sorted(self.sites)

    @property
    def is_training(self) -> bool:
        """Whether rounds go on."""
        is_stage = self.stage is None or self.stage.stage == "training"
        return self.fold is not None and is_stage and self.latest is self.stage

    @property
    def last_round(self) -> RoundCompleted | None:
        """The last complete round of the current fold."""
        return None if self.fold is None else self.fold.completed.get(self.fold.done)

    @property
    def remaining(self) -> float | None:
        """Seconds until the last round of the current fold is done, ``None`` if that is not known."""
        return self.fold.remaining if self.fold is not None and self.is_training else None

    @property
    def failures(self) -> int:
        """How often a site was left out."""
        return sum(isinstance(trouble.event, SiteLeftOut) for trouble in self.troubles)

    def rounds_of(self, fold: str) -> int:
        """Return the number of the last complete round of a fold, 0 before the first."""
        return self.folds[fold].done if fold in self.folds else 0

    def _join(self, event: SiteJoined) -> None:
        self.sites[event.site] = event.cases
        if (self.stage is None and self.fold is None) or isinstance(self.latest, Finished):
            self.stage, self.latest = None, event

    def _begin(self, event: StageStarted) -> None:
        self.stage, self.awaited = event, None
        if event.rounds is not None:
            self.fold = self.folds.setdefault(event.fold, FoldRounds(event.fold, event.rounds))
            self.fold.begin(event.rounds, event.first_round)

    def _complete(self, event: RoundCompleted) -> None:
        self._know([*event.sites, *event.left_out])
        if self.fold is None:
            self.fold = self.folds[None] = FoldRounds(None, event.rounds)
        self.fold.complete(event)
        self.dice |= {site: report.mean_dice for site, report in event.sites.items()}
        self.awaited = None

    def _note(self, event: SiteLeftOut | UpdateOutOfLine) -> None:
        self._know([event.site])
        if isinstance(event, SiteLeftOut) and self.fold is not None:
            self.fold.left_out[event.round, event.site] = event.reason
        self.troubles.append(Trouble(event, self.stage, event.round))

    def _await(self, event: SitesAwaited) -> None:
        self.awaited = event if event.sites else None
        if event.sites:
            self.troubles.append(Trouble(event, self.stage, self.fold.done + 1 if self.fold is not None else 0))

    def _take_in(self, site: str) -> None:
        if self.awaited is not None and site in self.awaited.sites:
            sites = [other for other in self.awaited.sites if other != site]
            changes = {"sites": sites, "present": self.awaited.present + 1}
            self.awaited = self.awaited.model_copy(update=changes) if sites else None

    def _know(self, sites: Iterable[str]) -> None:
        for site in sites:
            self.sites.setdefault(site, None)
