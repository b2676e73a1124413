"""The parsers of ``server``, ``client`` and ``run``.

Each task has a parser of its own, because nnU-Net's commands use one spelling for different things (``-np``, ``-c``).
TASK is the first word that names one; everything else may stand in any order.
"""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fednnunet.cli.site_words import parse_with_sites
from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_HELP
from fednnunet.protocol.messages import TASKS, TASKS_WITH_NETWORK, Task
from fednnunet.settings.checks import check_given_plans, check_training
from fednnunet.settings.coordinator import CoordinatorSettings, ListeningSettings
from fednnunet.settings.flag import add_flags, filled
from fednnunet.settings.flags import (
    CLIENT_TRUST_FLAGS,
    EVALUATION_FLAGS,
    FEDERATION_FLAGS,
    HOST,
    PORT,
    QUIET,
    SEED,
    SERVER_TRUST_FLAGS,
    SITE_FLAGS,
    client_flags,
    server_flags,
)
from fednnunet.settings.nnunet_flags import DEFAULT_CONFIGURATIONS, FLAGS_OF_TASK
from fednnunet.settings.node import (
    ConnectionSettings,
    EvaluationSettings,
    GateSettings,
    NodeSettings,
    PlanningSettings,
    TrainingSettings,
)
from fednnunet.settings.simulation import SimulationSettings
from fednnunet.settings.values import port_number, positive_int, split_words

_TASK_HELP = {
    "extract_fingerprint": "one common fingerprint from all sites",
    "plan_and_preprocess": "fingerprint, common plans, preprocessing",
    "train": "federated training",
    "evaluate": "test of a trained model on the sites' test cases",
}

_NODES: dict[Task, type[NodeSettings]] = {
    "extract_fingerprint": PlanningSettings,
    "plan_and_preprocess": PlanningSettings,
    "train": TrainingSettings,
    "evaluate": EvaluationSettings,
}


@dataclass(frozen=True)
class ServerCommand:
    """What a command line of ``server`` says."""

    coordinator: CoordinatorSettings
    listening: ListeningSettings

    @property
    def quiet(self) -> bool:
        """Whether to show warnings, errors and results only."""
        return self.coordinator.quiet


@dataclass(frozen=True)
class ClientCommand:
    """What a command line of ``client`` says; `key` is the file with the site's private key."""

    node: NodeSettings
    connection: ConnectionSettings
    gate: GateSettings
    key: Path | None
    fold: str | None
    quiet: bool


def parse_server(argv: Sequence[str]) -> ServerCommand:
    """Parse the command line of the coordinator."""
    task, rest = _take_task("server", "The coordinator: aggregates what the sites send.", argv)
    parser = _task_parser("server", task)
    parser.add_argument("--num_clients", type=positive_int, required=True, help="number of sites in the federation")
    parser.add_argument("fold", metavar="FOLD", nargs="?", help=f"{FOLDS_HELP} (default: the nodes')")
    add_flags(parser, (HOST, PORT, *server_flags(task)))
    add_flags(parser.add_argument_group("trust"), SERVER_TRUST_FLAGS)
    if FEDERATION_FLAGS[task]:
        checked = parser.add_argument_group("required flags of the nodes (default: any)")
        add_flags(checked, FEDERATION_FLAGS[task])
        parser.set_defaults(fingerprint=None)
    arguments = parser.parse_intermixed_args(rest, argparse.Namespace(task=task))
    _check_given_plans(parser, arguments, None)
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    _check_dashboard(parser, arguments)
    coordinator = filled(CoordinatorSettings, vars(arguments))
    _check_training(parser, coordinator)
    return ServerCommand(coordinator, filled(ListeningSettings, vars(arguments)))


def parse_client(argv: Sequence[str]) -> ClientCommand:
    """Parse the command line of a node."""
    task, rest = _take_task("client", "The node of one site: works on its data, sends no data.", argv)
    parser = _task_parser("client", task)
    _add_site_positionals(parser, task, "DATASET_ID", "the site's dataset: id or name")
    own = [flag for flag in client_flags(task) if flag not in FLAGS_OF_TASK[task]]
    add_flags(parser, (HOST, PORT, *SITE_FLAGS, *own, QUIET))
    add_flags(parser.add_argument_group("trust"), CLIENT_TRUST_FLAGS)
    add_flags(parser.add_argument_group("nnU-Net's own flags"), FLAGS_OF_TASK[task])
    arguments = parse_with_sites(parser, rest, argparse.Namespace(task=task))
    if len(arguments.dataset) > 1:
        parser.error(f"a node works on one dataset, not on {' '.join(arguments.dataset)}: start one client for each")
    key: Path | None = arguments.key
    if arguments.sites is not None and key is None:
        parser.error("--sites needs --key: with it, this site signs for the masked sums in which it takes part")
    named_by_key = None if key is None else key.stem
    values = {**vars(arguments), "site": named_by_key if arguments.site is None else arguments.site}
    node = _node(parser, arguments.dataset[0], values)
    if isinstance(node, TrainingSettings):
        _check_training(parser, node)
    return ClientCommand(
        node=node,
        connection=filled(ConnectionSettings, values),
        gate=filled(GateSettings, values),
        key=key,
        fold=arguments.fold,
        quiet=arguments.quiet,
    )


def parse_run(argv: Sequence[str]) -> SimulationSettings:
    """Parse the command line of a federation on one machine."""
    task, rest = _take_task("run", "A whole federation on one machine: one coordinator, one node per dataset.", argv)
    parser = _task_parser("run", task)
    _add_site_positionals(parser, task, "DATASET_IDS", 'the datasets of all sites, in quotes: "511 512 513"')
    parser.add_argument("--port", type=port_number, default=None, help="port of the coordinator (default: a free one)")
    parser.add_argument("--gpus", default=None, help='GPU of each site: "0 1 1" (default: round robin)')
    parser.add_argument(
        "--gpu_memory_target",
        dest="gpu_memory_targets",
        default=None,
        help='-gpu_memory_target of each site: "8 11 8"',
    )
    parser.add_argument("--log_dir", type=Path, default=None, help="folder for log files (default: a new one)")
    parser.add_argument(
        "--in_process",
        action="store_true",
        help="train in this process, one site after the other, with all cores or the GPU for each",
    )
    parser.add_argument(
        "--warm_sites",
        type=positive_int,
        default=None,
        help="with --in_process: number of sites whose networks stay on the GPU (default: 1)",
    )
    add_flags(parser, (HOST, *FEDERATION_FLAGS[task], *((SEED,) if task == "train" else ())))
    add_flags(parser.add_argument_group("the coordinator's flags"), server_flags(task))
    coordinators = {flag.dest for flag in server_flags(task)}
    flags = [flag for flag in FLAGS_OF_TASK[task] if flag.dest not in coordinators]
    add_flags(parser.add_argument_group("nnU-Net's own flags, for every node"), flags)
    if task == "evaluate":
        add_flags(parser.add_argument_group("what every node evaluates"), EVALUATION_FLAGS)
    arguments = parse_with_sites(parser, rest, argparse.Namespace(task=task))
    _check_given_plans(parser, arguments, "exact")
    _check_dashboard(parser, arguments)
    if task == "evaluate" and len(arguments.dataset) > 1 and (arguments.images or arguments.labels):
        parser.error("-i and -l select the cases of one site: give them with one dataset only, or start client.py")
    values = vars(arguments)
    for_each = {
        name: _one_for_each(parser, option, values[name], len(arguments.dataset))
        for name, option in (("gpus", "--gpus"), ("gpu_memory_targets", "--gpu_memory_target"))
    }
    # the nodes say how they plan
    of_all = {"num_clients": len(arguments.dataset), "fingerprint": None, "asym": False}
    coordinator = filled(CoordinatorSettings, {**values, **of_all})
    _check_training(parser, coordinator)
    return filled(
        SimulationSettings,
        {
            **values,
            **for_each,
            "coordinator": coordinator,
            "nodes": tuple(_node(parser, dataset, values) for dataset in arguments.dataset),
        },
    )


def _one_for_each(parser: argparse.ArgumentParser, option: str, words: str | None, sites: int) -> list[str] | None:
    if words is None:
        return None
    if len(split_words(words)) != sites:
        parser.error(f"{option} needs one value for each of the {sites} datasets: '{words}'")
    return split_words(words)


def _check_training(parser: argparse.ArgumentParser, settings: CoordinatorSettings | TrainingSettings) -> None:
    try:
        check_training(settings)
    except FednnUNetError as error:
        parser.error(str(error))


def _check_given_plans(parser: argparse.ArgumentParser, arguments: argparse.Namespace, default: str | None) -> None:
    if arguments.task != "plan_and_preprocess":
        return
    try:
        check_given_plans(arguments.given_plans, arguments.asym, arguments.fingerprint, default)
    except FednnUNetError as error:
        parser.error(str(error))


def _check_dashboard(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.dashboard is not None and arguments.dashboard == arguments.port:
        parser.error(f"the nodes connect to port {arguments.port}: give --dashboard another one")


def _take_task(command: str, description: str, argv: Sequence[str]) -> tuple[Task, list[str]]:
    """Return the task that `argv` names and `argv` without it; without a task, print help or an error and exit."""
    for position, word in enumerate(argv):
        for task in TASKS:
            if word == task:
                return task, [*argv[:position], *argv[position + 1 :]]
    tasks = "\n".join(f"  {task:<22}{_TASK_HELP[task]}" for task in TASKS)
    parser = argparse.ArgumentParser(
        prog=f"fednnunet {command}",
        description=f"{description}\n\ntasks:\n{tasks}",
        epilog=f"'fednnunet {command} TASK --help' lists the flags of a task.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage=f"fednnunet {command} TASK ...",
    )
    parser.parse_known_args(argv)  # prints the help and exits, if that was asked for
    parser.error(f"no TASK given: choose one of {', '.join(TASKS)}")


def _task_parser(command: str, task: Task) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(prog=f"fednnunet {command} {task}", description=_TASK_HELP[task], allow_abbrev=False)


def _add_site_positionals(parser: argparse.ArgumentParser, task: Task, dataset_name: str, dataset_help: str) -> None:
    optional = None if task in TASKS_WITH_NETWORK else "?"
    parser.add_argument("dataset", metavar=dataset_name, help=dataset_help, nargs=optional)
    parser.add_argument(
        "configuration", metavar="CONFIGURATION", help="2d, 3d_fullres, 3d_lowres, 3d_cascade_fullres …", nargs=optional
    )
    parser.add_argument("fold", metavar="FOLD", help=FOLDS_HELP, nargs=optional)


def _node(parser: argparse.ArgumentParser, dataset: str, values: Mapping[str, Any]) -> NodeSettings:
    """Return the settings of a node; CONFIGURATION and ``-c CONFIG`` name what is preprocessed."""
    more: dict[str, object] = {"dataset": dataset}
    if values["task"] == "plan_and_preprocess":
        given = values["configurations"]
        named_with_c = [] if given is parser.get_default("configurations") else given
        named = list(dict.fromkeys(filter(None, [values["configuration"], *named_with_c])))
        # nnU-Net skips what the plans do not have, if it was only the default; what a user names must exist
        more |= {"explicit_configurations": bool(named), "configurations": named or list(DEFAULT_CONFIGURATIONS)}
    return filled(_NODES[values["task"]], {**values, **more})
