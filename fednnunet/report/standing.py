"""Describes the state of a run in words."""

from collections.abc import Mapping

from fednnunet.events.events import (
    FingerprintFound,
    Finished,
    FoldValidated,
    GainTold,
    ModelExported,
    PlansAgreed,
    SiteJoined,
    SitesEvaluated,
    StageKind,
    StageStarted,
)
from fednnunet.events.run_state import RunState
from fednnunet.report.formats import awaited, duration

_STAGES: Mapping[StageKind, str] = {
    "reading": "reading images",
    "fingerprint": "common fingerprint",
    "planning": "common plans",
    "planning_apart": "reading, planning and preprocessing, each site for itself",
    "installing": "installing",
    "preprocessing": "preprocessing",
    "preparing": "preparing fold {}",
    "training": "training fold {}",
    "validating": "validating fold {}",
    "personal": "personal models, fold {}",
    "alone": "models trained alone, fold {}",
    "testing": "predicting test cases",
}


def stage_title(event: StageStarted) -> str:
    """Return what a stage is called."""
    return _STAGES[event.stage].format(event.fold)


def headline(run: RunState) -> str:
    """Return where a run is, in a few words."""
    match run.latest:
        case StageStarted():
            return stage_title(run.latest)
        case SiteJoined(joined=joined, expected=expected):
            return f"waiting for sites, {joined} of {expected} joined"
        case FingerprintFound():
            return "common fingerprint found"
        case PlansAgreed(plans=plans):
            return "planning" if plans is None else "plans agreed"
        case ModelExported():
            return "model written"
        case FoldValidated(fold=fold):
            return f"fold {fold} validated"
        case GainTold(fold=fold):
            return f"models of fold {fold} compared"
        case SitesEvaluated(fold=fold):
            return f"fold {fold} tested"
        case Finished():
            return "finished"
        case None:
            return "waiting for sites"


def condition(run: RunState) -> str:
    """Return the state of a run, its progress and what it waits for, in one line."""
    if isinstance(run.latest, Finished):
        return f"finished after {duration(run.latest.seconds)}"
    parts = [headline(run)]
    if run.fold is not None and run.is_training:
        parts.append(f"round {run.fold.done}/{run.fold.rounds}")
    if run.work is not None and run.work.total:
        parts.append(f"{run.work.done} of {run.work.total} cases")
    if run.approvals:
        parts.append(f"waiting for approval at {', '.join(sorted(run.approvals))}")
    if run.awaited is not None:
        parts.append(awaited(run.awaited))
    elif run.remaining is not None:
        parts.append(f"about {duration(run.remaining)} left")
    return " · ".join(parts)
