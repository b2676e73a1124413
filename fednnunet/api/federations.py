"""Federations on this machine: planned, trained and evaluated from Python."""

import contextlib
import difflib
import inspect
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from fednnunet.api.run import Run
from fednnunet.errors import FednnUNetError
from fednnunet.events.events import Event
from fednnunet.folds import check_fold
from fednnunet.launcher.simulation import make_log_dir, with_run_dir
from fednnunet.launcher.steps import Job, run_job
from fednnunet.protocol.messages import Task
from fednnunet.settings.checks import check_given_plans, check_rules, check_secure, check_training
from fednnunet.settings.coordinator import CoordinatorSettings
from fednnunet.settings.flag import check_values, filled
from fednnunet.settings.flags import client_flags, server_flags
from fednnunet.settings.node import (
    EvaluationSettings,
    NodeSettings,
    PlanningSettings,
    TrainingSettings,
    fingerprint_mode,
)
from fednnunet.settings.simulation import SimulationSettings
from fednnunet.settings.words import run_words
from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.server_optimizers import SERVER_OPTIMIZERS

Datasets = Sequence[int | str] | int | str
"""Id or name of each site's dataset."""
OnEvent = Callable[[Event], None]
"""Is called with each event of a run as it happens; see `fednnunet.events.events`."""

_NOT_CHOSEN_HERE = frozenset({"task", "dataset", "num_clients", "coordinator", "nodes", "progress_file", "quiet"})


def plan(
    datasets: Datasets,
    configurations: Sequence[str] | str | None = None,
    *,
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Run:
    """Let sites agree on a fingerprint and plans, and preprocess.

    Parameters
    ----------
    datasets
        Id or name of each site's dataset.
    configurations
        What is preprocessed, such as ``"2d"``; by default, what nnU-Net does.
    on_event
        Is called with each event as it happens.
    **settings
        Fields of `PlanningSettings`, `CoordinatorSettings` and `SimulationSettings`, such as ``asym=True``.

    Returns
    -------
    The run, with `Run.plans` and `Run.fingerprint`.

    Raises
    ------
    FednnUNetError
        If it cannot start, or a site fails.
    """
    if configurations is not None:
        named = [configurations] if isinstance(configurations, str) else list(configurations)
        settings |= {"configurations": named, "explicit_configurations": True}
    return _federate("plan_and_preprocess", PlanningSettings, datasets, settings, on_event)


def train(
    datasets: Datasets,
    configuration: str,
    fold: int | str = 0,
    *,
    trainer: str | type = "nnUNetTrainer",
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Run:
    """Train one model with all sites.

    Parameters
    ----------
    datasets
        Id or name of each site's dataset.
    configuration, fold
        As nnU-Net means them.
    trainer
        A trainer that nnU-Net finds by name, or a class of your own, in a file of its own.
    on_event
        Is called with each event as it happens.
    **settings
        Fields of `TrainingSettings`, `CoordinatorSettings` and `SimulationSettings`, such as ``rounds=50``,
        ``aggregation="median"``, ``device="cpu"``, ``in_process=True`` (one site after the other, in this process).

    Returns
    -------
    The run, with its history.

    Raises
    ------
    FednnUNetError
        If it cannot start, or ends before it is done.
    """
    with _found(trainer) as name:
        values = {"configuration": configuration, "fold": _fold(fold), "trainer": name, **settings}
        return _federate("train", TrainingSettings, datasets, values, on_event)


def evaluate(
    datasets: Datasets,
    configuration: str,
    fold: int | str = 0,
    *,
    trainer: str | type = "nnUNetTrainer",
    on_event: OnEvent | None = None,
    **settings: Any,
) -> Run:
    """Let each site test its trained model on its test cases.

    Parameters
    ----------
    datasets, configuration, fold, trainer, on_event
        As in `train`.
    **settings
        Fields of `EvaluationSettings`, `CoordinatorSettings` and `SimulationSettings`, such as ``nsd_tolerance=2.0``.

    Returns
    -------
    The run, with `Run.scores`.

    Raises
    ------
    FednnUNetError
        If there is no model, or no site can evaluate it.
    """
    with _found(trainer) as name:
        values = {"configuration": configuration, "fold": _fold(fold), "trainer": name, **settings}
        return _federate("evaluate", EvaluationSettings, datasets, values, on_event)


def names_of(datasets: Datasets) -> tuple[str, ...]:
    """Return datasets as words of a command line."""
    each = [datasets] if isinstance(datasets, int | str) else datasets
    if not each:
        raise FednnUNetError("No dataset given: name one for each site.")
    return tuple(str(dataset) for dataset in each)


def check_names(values: Mapping[str, Any], *kinds: Any) -> None:
    """Refuse settings that there are not.

    Raises
    ------
    FednnUNetError
        Names it, and one that may be meant.
    """
    known = {field.name for kind in kinds for field in fields(kind)} - _NOT_CHOSEN_HERE
    for name in values.keys() - known:
        alike = difflib.get_close_matches(name, known, n=1)
        hint = f", did you mean {alike[0]}?" if alike else f": choose from {', '.join(sorted(known))}."
        raise FednnUNetError(f"Unknown setting '{name}'{hint}")


def _federate(
    task: Task, kind: type[NodeSettings], datasets: Datasets, values: Mapping[str, Any], on_event: OnEvent | None
) -> Run:
    tell: OnEvent = on_event or (lambda event: None)
    settings = with_run_dir(_simulation(task, kind, names_of(datasets), values))
    log_dir = make_log_dir(settings.log_dir, task, os.environ)
    settings = replace(settings, log_dir=log_dir)
    if settings.in_process:
        from fednnunet.launcher.in_process import run_in_process

        run_in_process(settings, tell)
    else:
        _check_known_elsewhere(settings.coordinator)
        run_job(Job(task, run_words(settings), log_dir), tell)
    return Run(settings.coordinator.run_dir or log_dir)


def _simulation(
    task: Task, kind: type[NodeSettings], datasets: tuple[str, ...], values: Mapping[str, Any]
) -> SimulationSettings:
    check_names(values, kind, CoordinatorSettings, SimulationSettings)
    check_values((*server_flags(task), *client_flags(task)), values)
    values = {name: Path(value) if name in _PATHS and value is not None else value for name, value in values.items()}
    common = {**values, "task": task}
    of_all = {"num_clients": len(datasets), "quiet": True, "fingerprint": None, "asym": False}
    coordinator = filled(CoordinatorSettings, {**common, **of_all})
    check_training(coordinator)
    check_rules(coordinator)
    nodes = tuple(filled(kind, {**common, "dataset": dataset}) for dataset in datasets)
    check_secure(coordinator, fingerprint=fingerprint_mode(nodes[0]))
    if isinstance(nodes[0], PlanningSettings):
        check_given_plans(coordinator.given_plans, nodes[0].asym, nodes[0].fingerprint, "exact")
    return filled(SimulationSettings, {**values, "coordinator": coordinator, "nodes": nodes})


_PATHS = frozenset({"given_plans", "run_dir", "log_dir", "model", "images", "labels", "output"})


def _check_known_elsewhere(settings: CoordinatorSettings) -> None:
    """Refuse rules that only this program knows, where others are to use them."""
    for table, name in ((AGGREGATIONS, settings.aggregation), (SERVER_OPTIMIZERS, settings.server_optimizer)):
        if not table.is_known_elsewhere(name):
            raise FednnUNetError(
                f"'{name}' is registered in this program only: train with in_process=True, or bring it in a package "
                "with an entry point."
            )


def _fold(fold: int | str) -> str:
    check_fold(str(fold))
    return str(fold)


@contextlib.contextmanager
def _found(trainer: str | type) -> Iterator[str]:
    """Let nnU-Net find a trainer of the user's, and give its name."""
    if isinstance(trainer, str) or trainer.__module__.partition(".")[0] == "nnunetv2":
        yield trainer if isinstance(trainer, str) else trainer.__name__
        return
    try:
        file = Path(inspect.getfile(trainer))
    except (TypeError, OSError):
        file = Path()
    if not file.is_file():
        raise FednnUNetError(f"{trainer.__name__} is not defined in a file: nnU-Net imports trainers from files.")
    before = os.environ.get(_EXTERNAL)
    os.environ[_EXTERNAL] = os.pathsep.join(filter(None, [str(file.absolute().parent), before]))
    try:
        yield trainer.__name__
    finally:
        if before is None:
            del os.environ[_EXTERNAL]
        else:
            os.environ[_EXTERNAL] = before


_EXTERNAL = "nnUNet_extTrainer"
