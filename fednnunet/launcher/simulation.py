"""A whole federation on one machine: one coordinator and one node per dataset, each the command that hospitals run."""

import argparse
import hashlib
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.channel.address import check_can_listen, find_free_port, is_loopback, join_address
from fednnunet.channel.messages import TASKS_WITH_NETWORK
from fednnunet.cli.arguments import client_flags, server_flags
from fednnunet.errors import FednnUNetError
from fednnunet.launcher import devices
from fednnunet.launcher.preflight import check_sites
from fednnunet.launcher.processes import Process
from fednnunet.launcher.supervision import SEPARATOR, run_together
from fednnunet.nnunet_defaults import model_folder_name
from fednnunet.node.dataset import find_dataset
from fednnunet.node.folders import check_folders

_COORDINATOR = "coordinator"
_LONGEST_IDS = 120
"""Characters of the ids in the name of a folder."""
_FEDNNUNET = (sys.executable, "-m", "fednnunet")


def run_simulation(arguments: argparse.Namespace) -> int:
    """Run the federation that a command line of ``run`` asks for, and return the exit status.

    Parameters
    ----------
    arguments
        What `fednnunet.cli.arguments.parse_run` returns.

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
    _refuse_flags_without_effect(arguments)
    if arguments.task == "train" and arguments.seed is not None:
        os.environ.setdefault("nnUNet_n_proc_DA", "0")  # processes that augment are not repeatable
    arguments = argparse.Namespace(**{**vars(arguments), "port": _port(arguments)})
    check_folders(arguments.task)
    sites = site_names(arguments.dataset)
    check_sites(arguments, [client_words(arguments, index) for index in range(len(sites))])
    shares = _shares(arguments, len(sites))
    log_dir = make_log_dir(arguments.log_dir, arguments.task, os.environ)
    progress_file = arguments.progress_file or log_dir / "events.jsonl"

    if arguments.run_dir is None and (
        arguments.task == "train" or (arguments.task == "evaluate" and arguments.m is None)
    ):
        arguments.run_dir = training_run_dir(arguments, os.environ)

    console = Console(highlight=False)
    width = max(len(name) for name in (_COORDINATOR, *sites)) + len(SEPARATOR)
    columns = {"COLUMNS": str(max(60, console.width - width))}  # tables of the processes fit beside their names
    coordinator = Process(
        _COORDINATOR,
        server_command(arguments, progress_file),
        log_dir / "server.log",
        columns,
        join_address(arguments.host, arguments.port),
    )
    nodes = [
        Process(
            name,
            client_command(arguments, index),
            log_dir / log_name(name),
            {**columns, **share.environment},
            share.description,
        )
        for index, (name, share) in enumerate(zip(sites, shares, strict=True))
    ]
    quiet = arguments.quiet
    for process in (coordinator, *nodes) if not quiet else ():
        console.print(Text(f"{process.name}: {process.description}"), soft_wrap=True)
    try:
        return run_together(coordinator, nodes, console, progress_file, expendable=_expendable(arguments), quiet=quiet)
    finally:
        if not quiet:
            console.print(Text(f"Logs: {log_dir}"), soft_wrap=True)


def _expendable(arguments: argparse.Namespace) -> int:
    """Return how many nodes the coordinator can do without."""
    if arguments.task == "evaluate":
        return len(arguments.dataset) - 1
    quorum = arguments.min_clients if arguments.task == "train" else None
    return len(arguments.dataset) - (quorum or len(arguments.dataset))


def server_command(arguments: argparse.Namespace, progress_file: Path) -> list[str]:
    """Return the command line of the coordinator.

    Parameters
    ----------
    arguments
        What `fednnunet.cli.arguments.parse_run` returns, with a port.
    progress_file
        File for the coordinator's events.
    """
    return [*_FEDNNUNET, "server", *server_words(arguments, progress_file)]


def server_words(arguments: argparse.Namespace, progress_file: Path) -> list[str]:
    """Return the words of `server_command` that are the coordinator's."""
    task = arguments.task
    words = [task, "--num_clients", str(len(arguments.dataset))]
    if task in TASKS_WITH_NETWORK and arguments.fold is not None:
        words.append(arguments.fold)
    words += ["--host", arguments.host, "--port", str(arguments.port)]
    for flag in server_flags(task):
        if flag.dest != "progress_file":
            words += flag.to_argv(arguments)
    return [*words, "--progress_file", str(progress_file)]


def client_command(arguments: argparse.Namespace, index: int, cores: int | None = None) -> list[str]:
    """Return the command line of the node of one site.

    Parameters
    ----------
    arguments
        What `fednnunet.cli.arguments.parse_run` returns, with a port.
    index
        Which of the sites.
    cores
        CPU cores of the machine; by default, those that this process may use.
    """
    return [*_FEDNNUNET, "client", *client_words(arguments, index, cores)]


def client_words(arguments: argparse.Namespace, index: int, cores: int | None = None) -> list[str]:
    """Return the words of `client_command` that are the node's."""
    task = arguments.task
    words = [task, arguments.dataset[index]]
    if task in TASKS_WITH_NETWORK:
        words += [word for word in (arguments.configuration, arguments.fold) if word is not None]
    words += ["--host", arguments.host, "--port", str(arguments.port)]
    own = _words_of_site(arguments, index, cores or devices.available_cores())
    for flag in client_flags(task):
        words += own[flag.dest] if flag.dest in own else flag.to_argv(arguments)
    return words


def _words_of_site(arguments: argparse.Namespace, index: int, cores: int) -> dict[str, list[str]]:
    """Return, by flag, the words that a site gets instead of those of the launcher's command line."""
    words: dict[str, list[str]] = {}
    share = devices.cores_per_site(cores, len(arguments.dataset))
    if arguments.task == "extract_fingerprint":
        words["d"] = []  # the dataset stands in the command line by position
        if arguments.np == _default("np", arguments):
            by_user = "nnUNet_def_n_proc" in os.environ
            words["np"] = ["-np", str(arguments.np if by_user else min(arguments.np, share))]
    if arguments.task == "plan_and_preprocess":
        words["d"] = []
        words["c"] = ["-c", *arguments.c] if arguments.explicit_configurations else []
        if arguments.npfp == _default("npfp", arguments):
            words["npfp"] = ["-npfp", str(min(arguments.npfp, share))]
        if arguments.np is None:
            words["np"] = ["-np", *(str(count) for count in devices.planning_processes(arguments.c, share))]
        if arguments.gpu_memory_targets is not None:
            words["gpu_memory_target"] = ["-gpu_memory_target", arguments.gpu_memory_targets[index]]
    return words


def _default(dest: str, arguments: argparse.Namespace) -> object:
    return next(flag.settings["default"] for flag in client_flags(arguments.task) if flag.dest == dest)


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
            raise FednnUNetError(f"{name} is named twice: every site of the federation needs a dataset of its own.")
    return names


def log_name(site: str) -> str:
    """Return the name of the file with the output of a site's node."""
    return "".join(character if character.isalnum() or character in " _-." else "_" for character in site) + ".log"


def training_run_dir(arguments: argparse.Namespace, environment: Mapping[str, str]) -> Path:
    """Return where a training and its evaluation are kept: one folder for the same sites, plans and trainer."""
    results = Path(environment.get("nnUNet_results") or ".").absolute()
    numbers = sorted(_number(name) for name in site_names(arguments.dataset))
    sites = "+".join(word for _, word in numbers)
    if len(sites) > _LONGEST_IDS:
        sites = f"{len(numbers)}_sites_{hashlib.sha256(sites.encode()).hexdigest()[:8]}"
    model = model_folder_name(arguments.tr, arguments.p, arguments.configuration)
    return results / "fednnunet_runs" / f"{sites}__{model}"


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
            f"The log folder {error.filename} cannot be made ({error.strerror}): name another one with --log_dir."
        ) from error


def _port(arguments: argparse.Namespace) -> int:
    if not is_loopback(arguments.host):
        raise FednnUNetError(
            f"Other machines can reach {arguments.host}, but this federation is on one machine: leave --host out, or "
            "start coordinator and nodes by themselves."
        )
    check_can_listen(arguments.host, arguments.port or 0)  # with port 0, it is the host that is checked
    return int(arguments.port or find_free_port(arguments.host))


def _shares(arguments: argparse.Namespace, sites: int) -> list[devices.Share]:
    cores = devices.available_cores()
    if arguments.task not in TASKS_WITH_NETWORK:
        return [devices.planning_share(sites, cores, os.environ)] * sites
    gpus = None
    if arguments.device == "cuda":
        import torch  # takes seconds, so only who trains on GPUs waits for it

        visible = devices.visible_gpus(os.environ, torch.cuda.device_count())
        gpus = devices.deal_gpus(visible, sites, arguments.gpus)
    return devices.training_shares(arguments.device, gpus, sites, cores, os.environ)


def _refuse_flags_without_effect(arguments: argparse.Namespace) -> None:
    if arguments.warm_sites is not None:
        raise FednnUNetError("--warm_sites has no effect without --in_process: leave it out.")
    if arguments.gpus is not None and getattr(arguments, "device", None) != "cuda":
        where = f"-device {arguments.device}" if arguments.task in TASKS_WITH_NETWORK else arguments.task
        raise FednnUNetError(f"--gpus has no effect with {where}, which uses no CUDA GPU: leave it out.")
    if arguments.gpu_memory_targets is None:
        return
    if arguments.task != "plan_and_preprocess":
        raise FednnUNetError(f"--gpu_memory_target has no effect on {arguments.task}: give it to plan_and_preprocess.")
    if arguments.gpu_memory_target is not None:
        raise FednnUNetError("Give either --gpu_memory_target, one value for each site, or -gpu_memory_target.")
    for value in arguments.gpu_memory_targets:
        try:
            float(value)
        except ValueError:
            raise FednnUNetError(f"--gpu_memory_target: '{value}' is no number of gigabytes.") from None
