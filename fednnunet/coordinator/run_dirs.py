"""Chooses the run folder of a training, and checks that it contains no other."""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from fednnunet.coordinator.run_folder import FoldFolder, RunDescription
from fednnunet.errors import FednnUNetError
from fednnunet.folds import Fold
from fednnunet.protocol.messages import Hello

_FOLD = re.compile(r"fold_(all|[0-9]+)")
_PART = re.compile(r"[A-Za-z0-9_.-]{1,120}")
"""Text of a site that may become part of a folder's name."""


def run_folder(root: Path, hellos: Sequence[Hello], *, may_be_fewer: bool) -> Path:
    """Return the folder for a training, or for the evaluation of its model: one for each network and set of sites.

    Parameters
    ----------
    root
        Folder of all of these.
    hellos
        How the sites introduced themselves.
    may_be_fewer
        Whether sites of the training can be missing, so that the folder of one with more sites is meant.

    Raises
    ------
    FednnUNetError
        If more than one folder can be meant.
    """
    task, sites = hellos[0].task, {hello.site for hello in hellos}
    models = "+".join(sorted({hello.model for hello in hellos if hello.model is not None}))
    if not models:
        return root / task
    model = models if _PART.fullmatch(models) else _digest([models])
    exact = root / f"{model}__{len(sites)}_sites_{_digest(sorted(sites))}"
    if exact.exists() or not may_be_fewer:
        return exact
    larger = [folder for folder in sorted(root.glob(f"{model}__*_sites_*")) if sites < _sites_of(folder)]
    if len(larger) > 1:
        raise FednnUNetError(
            f"{' and '.join(folder.name for folder in larger)} in {root} contain trainings of these sites and "
            "others: choose one of them with --run_dir."
        )
    return larger[0] if larger else exact


def check_run_folder(
    run_dir: Path, folds: Sequence[Fold], hellos: Sequence[Hello], *, resume: bool, overwrite: bool
) -> None:
    """Refuse to mix a training with another one in a run folder, or to replace one that is kept there.

    Parameters
    ----------
    run_dir
        The run folder.
    folds
        The folds that shall be trained.
    hellos
        How the sites introduced themselves.
    resume, overwrite
        Whether to go on with what is kept, or to replace it.

    Raises
    ------
    FednnUNetError
        Names the folder of the fold.
    """
    for folder in _folds(run_dir):
        is_wanted = folder.path.name in {f"fold_{fold}" for fold in folds}
        if is_wanted and overwrite:
            continue
        kept = folder.description()
        if kept is None:
            continue
        what = _what_differs(kept, hellos, may_be_fewer=resume)
        if what is not None:
            raise FednnUNetError(
                f"{folder.path} contains a training {what}: give another --run_dir, one for each training."
            )
        if is_wanted and not resume:
            rounds = kept.schedule.rounds
            done = folder.last_complete()
            state = "is finished" if kept.finished else f"is not finished, with {done} of {rounds} rounds done"
            remedy = "keep it, and train unfinished folds, with --c" if kept.finished else (
                "continue it with --c"
            )  # fmt: skip
            raise FednnUNetError(
                f"{folder.path} contains a training that {state}: {remedy}, or give --overwrite, or another --run_dir."
            )


def check_sites_let_go(
    run_dir: Path, folds: Sequence[Fold], hellos: Sequence[Hello], *, resume: bool, overwrite: bool
) -> None:
    """Refuse to begin a fold of which a site has a finished training that it does not let go, stock nnU-Net's too.

    Parameters are those of `check_run_folder`.

    Raises
    ------
    FednnUNetError
        Names the site and the fold.
    """
    for fold in folds:
        if resume and not overwrite and FoldFolder.of(run_dir, fold).description() is not None:
            continue  # of this training, which goes on
        for hello in hellos:
            if str(fold) in hello.finished:
                raise FednnUNetError(
                    f"Site {hello.site} has a finished training of fold {fold} of {hello.model}, which is "
                    f"not the one in {run_dir}: train other folds, or give that site's node --overwrite."
                )


def _what_differs(kept: RunDescription, hellos: Sequence[Hello], *, may_be_fewer: bool) -> str | None:
    """Return how an existing training differs from that of these sites."""
    sites = {hello.site for hello in hellos}
    models = {hello.model for hello in hellos}
    if kept.models and not models <= set(kept.models):
        return f"of {', '.join(kept.models)}, not of {', '.join(sorted(filter(None, models)))}"
    if not (sites <= set(kept.sites) if may_be_fewer else sites == set(kept.sites)):
        return f"at the sites {', '.join(kept.sites)}, not at {', '.join(sorted(sites))}"
    for hello in hellos:
        if kept.plans.get(hello.site) != hello.plans_digest:
            return f"with other plans than site {hello.site} has now"
    return None


def _folds(run_dir: Path) -> list[FoldFolder]:
    return [FoldFolder(path) for path in sorted(run_dir.glob("fold_*")) if _FOLD.fullmatch(path.name)]


def _sites_of(run_dir: Path) -> set[str]:
    descriptions = [folder.description() for folder in _folds(run_dir)]
    return {site for description in descriptions if description is not None for site in description.sites}


def _digest(words: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:8]
