"""nnU-Net's preprocessing of a site's cases, with a count of what is done."""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fednnunet.background import Background, Tracker
from fednnunet.errors import FednnUNetError
from fednnunet.nnunet_defaults import preprocessing_processes, stages_of
from fednnunet.node.dataset import SiteDataset

_LOOK_EVERY_SECONDS = 1.0


def preprocess(
    arguments: argparse.Namespace, dataset: SiteDataset, plans: dict[str, Any], cases: int, tracker: Tracker
) -> list[str]:
    """Run nnU-Net's preprocessing for the configurations that were asked for, and return which.

    Raises
    ------
    FednnUNetError
        If the user named a configuration that the plans do not have.
    """
    from nnunetv2.experiment_planning.plan_and_preprocess_api import preprocess_dataset

    available: dict[str, Any] = plans["configurations"]
    missing = [name for name in arguments.c if name not in available]
    if missing and arguments.explicit_configurations:
        raise FednnUNetError(
            f"The plans have no configuration '{missing[0]}': choose from {', '.join(sorted(available))}."
        )
    processes = {name: count for name, count in processes_of(arguments.c, arguments.np).items() if name in available}
    folders = [dataset.preprocessed / available[name]["data_identifier"] for name in processes]
    tracker.total, tracker.done = cases * len(folders), 0
    watch = Background(lambda watcher: _watch(folders, tracker, watcher))
    try:
        preprocess_dataset(
            dataset.id,
            str(plans["plans_name"]),
            list(processes),
            list(processes.values()),
            verbose=arguments.verbose,
            show_progress_bar=not arguments.no_pbar,
        )
    finally:
        watch.tracker.stop()
        watch.wait(_LOOK_EVERY_SECONDS)
    tracker.done = tracker.total
    return list(processes)


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
