"""Runs nnU-Net's preprocessing on a site's cases, and counts finished ones."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fednnunet.background import Background, Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.plans import resolved
from fednnunet.nnunet_defaults import preprocessing_processes, stages_of
from fednnunet.node.dataset import SiteDataset
from fednnunet.settings.node import PlanningSettings

_LOOK_EVERY_SECONDS = 1.0


def preprocess(
    settings: PlanningSettings, dataset: SiteDataset, plans: dict[str, Any], cases: int, tracker: Tracker
) -> None:
    """Run nnU-Net's preprocessing for the configurations that were asked for."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    processes = to_preprocess(settings, plans)
    folders = [dataset.preprocessed / str(resolved(plans, name)["data_identifier"]) for name in processes]
    tracker.total, tracker.done = cases * len(folders), 0
    watch = Background(lambda watcher: _watch(folders, tracker, watcher))
    try:
        preprocess_dataset(
            dataset.id,
            str(plans["plans_name"]),
            list(processes),
            list(processes.values()),
            verbose=settings.verbose,
            show_progress_bar=not settings.no_pbar,
        )
    finally:
        watch.tracker.stop()
        watch.wait(_LOOK_EVERY_SECONDS)
    tracker.done = tracker.total


def to_preprocess(settings: PlanningSettings, plans: Mapping[str, Any]) -> dict[str, int]:
    """Return the processes for each configuration that was asked for and that the plans have."""
    wanted = processes_of(settings.configurations, settings.preprocessing_processes)
    return {name: count for name, count in wanted.items() if name in plans["configurations"]}


def check_configurations(settings: PlanningSettings, plans: Mapping[str, Any], dataset: SiteDataset) -> None:
    """Refuse plans that lack a configuration that the user has named.

    Raises
    ------
    FednnUNetError
        Names those that there are.
    """
    available = plans["configurations"]
    missing = [name for name in settings.configurations if name not in available]
    if missing and settings.explicit_configurations:
        raise FednnUNetError(
            f"The new plans have no configuration '{missing[0]}': choose from {', '.join(sorted(available))}; "
            f"one of your own is preprocessed with nnUNetv2_preprocess -d {dataset.id} -plans_name "
            f"{plans['plans_name']} -c {missing[0]}."
        )


def check_dimensions(plans: Mapping[str, Any], configurations: Sequence[str], *, is_two_dimensional: bool) -> None:
    """Refuse plans that were given, and are for volumes, where images are slices.

    Parameters
    ----------
    plans
        The plans.
    configurations
        Those that will be preprocessed.
    is_two_dimensional
        Whether all images are slices.

    Raises
    ------
    FednnUNetError
        Names what does not fit.
    """
    if not is_two_dimensional:
        return
    volumes = [
        name
        for name in configurations
        if name in plans["configurations"] and len(resolved(plans, name)["patch_size"]) != 2
    ]
    if volumes or plans["transpose_forward"][0] != 0:
        what = f"{volumes[0]} of the given plans is" if volumes else "the given plans, which turn axes, are"
        raise FednnUNetError(
            f"this site has 2D images, but {what} for volumes: name configurations for slices only with -c, or give "
            "the plans of a network for 2D images"
        )


def _watch(folders: Sequence[Path], work: Tracker, watcher: Tracker) -> None:
    """Count the cases that nnU-Net has preprocessed since now."""
    began = time.time()
    while True:
        watcher.check()
        watcher.pause(_LOOK_EVERY_SECONDS)
        files = [path for folder in folders if folder.is_dir() for path in folder.glob("*.pkl")]
        work.done = sum(_written_at(path) >= began for path in files)


def _written_at(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:  # nnU-Net removes what stood there before
        return 0.0


def processes_of(configurations: Sequence[str], counts: Sequence[int] | None) -> dict[str, int]:
    """Return the processes that preprocess each configuration, with the cascade replaced by its two stages.

    Parameters
    ----------
    configurations
        As given with ``-c``.
    counts
        As given with ``-np``: one for all, or one for each; ``None`` for nnU-Net's own.

    Raises
    ------
    FednnUNetError
        If there are neither one nor as many counts as configurations.
    """
    if counts is not None and len(counts) not in (1, len(configurations)):
        raise FednnUNetError(f"-np takes one number, or one for each of {', '.join(configurations)}.")
    processes: dict[str, int] = {}
    for index, configuration in enumerate(configurations):
        for stage in stages_of(configuration):
            count = preprocessing_processes(stage) if counts is None else counts[index % len(counts)]
            processes.setdefault(stage, count)
    return processes
