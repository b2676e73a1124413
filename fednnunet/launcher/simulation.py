"""A whole federation on one machine: one coordinator and one node per dataset, each the command that hospitals run."""

import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.errors import FednnUNetError
from fednnunet.launcher import devices
from fednnunet.launcher.preflight import check_sites
from fednnunet.launcher.processes import Process
from fednnunet.launcher.site_keys import KeyFiles
from fednnunet.launcher.supervision import SEPARATOR, run_together
from fednnunet.node.dataset import find_dataset
from fednnunet.node.folders import check_folders
from fednnunet.protocol.messages import Task
from fednnunet.schema import as_name
from fednnunet.settings.flags import client_flags
from fednnunet.settings.node import EvaluationSettings, ModelSettings, NodeSettings, PlanningSettings, TrainingSettings
from fednnunet.settings.simulation import SimulationSettings
from fednnunet.settings.words import client_words, server_words
from fednnunet.transport.address import check_can_listen, find_free_port, is_loopback, join_address

_COORDINATOR = "coordinator"
_LONGEST_IDS = 120
"""Characters of the ids in the name of a folder."""
_FEDNNUNET = (sys.executable, "-m", "fednnunet")


def run_simulation(settings: SimulationSettings) -> int:
    """Run a federation, each program in a process of its own, and return the exit status.

    Returns
    -------
    int
        0 if all processes did their work, 1 if one failed, 128 + the signal's number if a signal ended the run.

    Raises
    ------
    FednnUNetError
        If the run cannot start: no GPU, port in use, a dataset named twice, no place for the logs, or anything that a
        node would refuse before it connects.
    """
    _refuse_settings_without_effect(settings)
    if any(isinstance(node, TrainingSettings) and node.seed is not None for node in settings.nodes):
        os.environ.setdefault("nnUNet_n_proc_DA", "0")  # processes that augment are not repeatable
    settings = replace(settings, port=_port(settings))
    check_folders(settings.task)
    sites = site_names(settings.datasets)
    settings = replace(settings, nodes=nodes_of(settings))
    check_sites(settings)
    shares = _shares(settings)
    log_dir = make_log_dir(settings.log_dir, settings.task, os.environ)
    coordinator_settings = with_run_dir(settings).coordinator
    if coordinator_settings.progress_file is None:
        coordinator_settings = replace(coordinator_settings, progress_file=log_dir / "events.jsonl")
    settings = replace(settings, coordinator=coordinator_settings)

    introduced = [introduced_as(node) for node in settings.nodes]
    keys = KeyFiles.make(log_dir, introduced) if coordinator_settings.secure else None
    console = Console(highlight=False)
    width = max(len(name) for name in (_COORDINATOR, *sites)) + len(SEPARATOR)
    columns = {"COLUMNS": str(max(60, console.width - width))}  # tables of the processes fit beside their names
    coordinator = Process(
        _COORDINATOR,
        [*server_command(settings), *([] if keys is None else keys.server_words())],
        log_dir / "server.log",
        columns,
        join_address(settings.host, settings.port or 0),
    )
    nodes = [
        Process(
            name,
            [*client_command(settings, index), *([] if keys is None else keys.client_words(introduced[index]))],
            log_dir / log_name(name),
            {**columns, **share.environment},
            share.description,
        )
        for index, (name, share) in enumerate(zip(sites, shares, strict=True))
    ]
    quiet, events = settings.quiet, coordinator_settings.progress_file
    for process in (coordinator, *nodes) if not quiet else ():
        console.print(Text(f"{process.name}: {process.description}"), soft_wrap=True)
    try:
        return run_together(coordinator, nodes, console, events, expendable=_expendable(settings), quiet=quiet)
    finally:
        if not quiet:
            console.print(Text(f"Logs: {log_dir}"), soft_wrap=True)


def _expendable(settings: SimulationSettings) -> int:
    """Return how many nodes the coordinator can do without."""
    sites = len(settings.nodes)
    if settings.task == "evaluate":
        return sites - 1
    quorum = settings.coordinator.min_clients if settings.task == "train" else None
    return sites - (quorum or sites)


def server_command(settings: SimulationSettings) -> list[str]:
    """Return the command line of the coordinator; there must be a port."""
    return [*_FEDNNUNET, "server", *server_words(settings.coordinator, settings.host, settings.port or 0)]


def client_command(settings: SimulationSettings, index: int) -> list[str]:
    """Return the command line of a site's node; there must be a port."""
    return [*_FEDNNUNET, "client", *client_words(settings.nodes[index], settings.host, settings.port or 0)]


def nodes_of(settings: SimulationSettings, cores: int | None = None) -> tuple[NodeSettings, ...]:
    """Return the settings of all nodes, which share the cores of this machine.

    Parameters
    ----------
    settings
        The federation.
    cores
        CPU cores of the machine; by default, those that this process may use.
    """
    share = devices.cores_per_site(cores or devices.available_cores(), len(settings.nodes))
    targets = settings.gpu_memory_targets or [None] * len(settings.nodes)
    return tuple(
        _sharing(node, share, None if target is None else float(target)) if isinstance(node, PlanningSettings) else node
        for node, target in zip(settings.nodes, targets, strict=True)
    )


def _sharing(node: PlanningSettings, share: int, gpu_memory_target: float | None) -> PlanningSettings:
    """Return the settings of a node that gets so many cores, where the user has not said how many processes."""
    is_default = node.extraction_processes == _default_processes(node.task)
    by_user = node.task == "extract_fingerprint" and "nnUNet_def_n_proc" in os.environ
    if is_default and not by_user:
        node = replace(node, extraction_processes=min(node.extraction_processes, share))
    if node.task == "plan_and_preprocess" and node.preprocessing_processes is None:
        processes = devices.planning_processes(node.configurations, share)
        node = replace(node, preprocessing_processes=tuple(processes))
    return node if gpu_memory_target is None else replace(node, gpu_memory_target=gpu_memory_target)


def _default_processes(task: Task) -> object:
    return next(flag.default for flag in client_flags(task) if flag.dest == "extraction_processes")


def site_names(datasets: Sequence[str]) -> list[str]:
    """Return what the sites are called: the full names of their datasets.

    Parameters
    ----------
    datasets
        An id or a name for each site.

    Raises
    ------
    FednnUNetError
        If there is no such dataset, or two sites have the same.
    """
    names = [find_dataset(dataset).name for dataset in datasets]
    for position, name in enumerate(names):
        if name in names[:position]:
            raise FednnUNetError(f"{name} is listed twice: every site of the federation needs its own dataset.")
    return names


def introduced_as(node: NodeSettings) -> str:
    """Return the name with which a node introduces its site."""
    return node.site or as_name(find_dataset(node.dataset).name)


def log_name(site: str) -> str:
    """Return the name of the file with the output of a site's node."""
    return "".join(character if character.isalnum() or character in " _-." else "_" for character in site) + ".log"


def with_run_dir(settings: SimulationSettings) -> SimulationSettings:
    """Return the settings with a run folder, where a training or an evaluation of its models needs one."""
    node, coordinator = settings.nodes[0], settings.coordinator
    if coordinator.run_dir is not None or not isinstance(node, ModelSettings):
        return settings
    if isinstance(node, EvaluationSettings) and node.model is not None:
        return settings
    run_dir = training_run_dir(settings.datasets, node, os.environ)
    return replace(settings, coordinator=replace(coordinator, run_dir=run_dir))


def training_run_dir(datasets: Sequence[str], node: ModelSettings, environment: Mapping[str, str]) -> Path:
    """Return where a training and its evaluation are kept: one folder for the same sites, plans and trainer."""
    results = Path(environment.get("nnUNet_results") or ".").absolute()
    numbers = sorted(_number(name) for name in site_names(datasets))
    sites = "+".join(word for _, word in numbers)
    if len(sites) > _LONGEST_IDS:
        sites = f"{len(numbers)}_sites_{hashlib.sha256(sites.encode()).hexdigest()[:8]}"
    return results / "fednnunet_runs" / f"{sites}__{node.model_name()}"


def _number(name: str) -> tuple[int, str]:
    """Return the id in the name of a site, to sort by and as a word; names without one come last."""
    found = re.fullmatch(r"Dataset0*([0-9]+)(?:_.*)?", name)
    return (int(found[1]), found[1]) if found else (sys.maxsize, name)


def make_log_dir(wanted: Path | None, task: str, environment: Mapping[str, str]) -> Path:
    """Make the folder for the log files and return it.

    Parameters
    ----------
    wanted
        The user's choice. Without one it is a new folder in ``fednnunet_runs`` beside nnU-Net's results, or
        beside what is preprocessed, or here.
    task
        The task, a part of a new folder's name.
    environment
        Where nnU-Net's folders are looked up.

    Raises
    ------
    FednnUNetError
        If the folder cannot be made.
    """
    try:
        if wanted is not None:
            wanted.mkdir(parents=True, exist_ok=True)
            return wanted.absolute()
        root = environment.get("nnUNet_results") or environment.get("nnUNet_preprocessed") or "."
        parent = Path(root).absolute() / "fednnunet_runs"
        parent.mkdir(parents=True, exist_ok=True)
        name = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}_{task}"
        attempt = 1
        while True:
            folder = parent / (name if attempt == 1 else f"{name}-{attempt}")
            try:
                folder.mkdir()
                return folder
            except FileExistsError:
                attempt += 1
    except OSError as error:
        raise FednnUNetError(
            f"The log folder {error.filename} cannot be created ({error.strerror}): choose another with --log_dir."
        ) from error


def _port(settings: SimulationSettings) -> int:
    if not is_loopback(settings.host):
        raise FednnUNetError(
            f"Other machines can reach {settings.host}, but this federation is on one machine: leave "
            "--host out, or start coordinator and nodes separately."
        )
    check_can_listen(settings.host, settings.port or 0)  # with port 0, it is the host that is checked
    return settings.port or find_free_port(settings.host)


def _shares(settings: SimulationSettings) -> list[devices.Share]:
    cores, sites, node = devices.available_cores(), len(settings.nodes), settings.nodes[0]
    if not isinstance(node, ModelSettings):
        return [devices.planning_share(sites, cores, os.environ)] * sites
    gpus = None
    if node.device == "cuda":
        import torch  # takes seconds, so only who trains on GPUs waits for it

        visible = devices.visible_gpus(os.environ, torch.cuda.device_count())
        gpus = devices.deal_gpus(visible, sites, settings.gpus)
    return devices.training_shares(node.device, gpus, sites, cores, os.environ)


def _refuse_settings_without_effect(settings: SimulationSettings) -> None:
    node = settings.nodes[0]
    device = node.device if isinstance(node, ModelSettings) else None
    if settings.warm_sites is not None:
        raise FednnUNetError("--warm_sites has no effect without --in_process: leave it out.")
    if settings.gpus is not None and device != "cuda":
        where = settings.task if device is None else f"-device {device}"
        raise FednnUNetError(f"--gpus has no effect with {where}, which uses no CUDA GPU: leave it out.")
    if settings.gpu_memory_targets is None:
        return
    if not isinstance(node, PlanningSettings) or node.task != "plan_and_preprocess":
        raise FednnUNetError(f"--gpu_memory_target has no effect on {node.task}: give it to plan_and_preprocess.")
    if node.gpu_memory_target is not None:
        raise FednnUNetError("Give either --gpu_memory_target, one value for each site, or -gpu_memory_target.")
    for value in settings.gpu_memory_targets:
        try:
            float(value)
        except ValueError:
            raise FednnUNetError(f"--gpu_memory_target: '{value}' is not a number of gigabytes.") from None
