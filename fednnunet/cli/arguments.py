"""The parsers of ``server``, ``client`` and ``run``.

Each task has a parser of its own, because nnU-Net's commands use one spelling for different things (``-np``, ``-c``).
TASK is the first word that names one; everything else may stand in any order.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

from fednnunet.channel.address import read_host
from fednnunet.channel.messages import FINGERPRINT_MODES, TASKS, TASKS_WITH_NETWORK, FingerprintMode, Task
from fednnunet.cli.nnunet_flags import DEFAULT_CONFIGURATIONS, FLAGS_OF_TASK, Flag, add_flags
from fednnunet.cli.site_words import parse_with_sites, split_words
from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.prediction import CHECKPOINT
from fednnunet.folds import FOLDS_HELP
from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.encoding import ENCODINGS
from fednnunet.weights.server_optimizers import SERVER_OPTIMIZERS

DEFAULT_HOST = "127.0.0.1"
DEFAULT_PORT = 8080
DEFAULT_DASHBOARD_PORT = 8090
DEFAULT_MODEL_NAME = "Dataset999_FedNNUNet"

_TASK_HELP = {
    "extract_fingerprint": "one common fingerprint from all sites",
    "plan_and_preprocess": "fingerprint, common plans, preprocessing",
    "train": "federated training",
    "evaluate": "test of a trained model on the sites' test cases",
}


def positive_int(text: str) -> int:
    """Return `text` as an integer of at least 1, for argparse."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is less than 1")
    return value


def positive_float(text: str) -> float:
    """Return `text` as a finite number above 0, for argparse."""
    value = non_negative_float(text)
    if value == 0:
        raise argparse.ArgumentTypeError("0 is too small")
    return value


def non_negative_float(text: str) -> float:
    """Return `text` as a finite number of at least 0, for argparse."""
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{value} is not a finite number of at least 0")
    return value


def port_number(text: str) -> int:
    """Return `text` as a TCP port, for argparse."""
    value = int(text)
    if not 1 <= value <= 65535:
        raise argparse.ArgumentTypeError(f"{value} is not a port, give one from 1 to 65535")
    return value


def dataset_name(text: str) -> str:
    """Return `text` if it can be the name of a dataset of nnU-Net, for argparse."""
    if not re.fullmatch(r"Dataset(?!000)[0-9]{3}_[A-Za-z0-9_-]{1,80}", text):
        raise argparse.ArgumentTypeError(f"'{text}' is not a dataset name, give one such as {DEFAULT_MODEL_NAME}")
    return text


def host_name(text: str) -> str:
    """Return `text` as the name or address of a host, for argparse."""
    try:
        return read_host(text)
    except FednnUNetError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


HOST = Flag("--host", "name or address of the coordinator (default: %(default)s)",
            {"type": host_name, "default": DEFAULT_HOST})  # fmt: skip
PORT = Flag("--port", "port of the coordinator (default: %(default)s)", {"type": port_number, "default": DEFAULT_PORT})

_INSECURE = Flag("--insecure", "allow unencrypted, unauthenticated connections to other machines",
                 {"action": "store_true"})  # fmt: skip
SERVER_TRUST_FLAGS = (
    Flag("--tls-cert", "certificate of the coordinator, PEM; without it, only nodes on this machine can connect",
         {"type": Path, "default": None}),
    Flag("--tls-key", "private key that belongs to --tls-cert, PEM", {"type": Path, "default": None}),
    Flag("--sites", "list of the sites that may connect, with their public keys (TOML)",
         {"type": Path, "default": None}),
    _INSECURE,
)  # fmt: skip
"""By what nodes know the coordinator, and it knows them."""

CLIENT_TRUST_FLAGS = (
    Flag("--ca-cert", "certificate of the authority that signed the coordinator's, PEM; 'system' for those that "
         "this machine trusts", {"default": None}),
    Flag("--key", "this site's private key, see 'fednnunet keys create'", {"type": Path, "default": None}),
    Flag("--policy", "rules about outgoing messages, see 'fednnunet policy create' (default: all messages of the task)",
         {"type": Path, "default": None}),
    Flag("--audit_log", "file in which the node logs all messages that it sends and receives (default: "
         "fednnunet_audit*.jsonl among the preprocessed data, or beside the folds of a training)",
         {"type": Path, "default": None}),
    _INSECURE,
)  # fmt: skip
"""By what a node knows the coordinator, and what it tells it."""

SCHEDULE_FLAGS = (
    Flag("--rounds", "rounds per fold (default: the trainer's number of epochs / local_epochs)",
         {"type": positive_int, "default": None}),
    Flag("--local_epochs", "epochs between two exchanges of weights (default: %(default)s)",
         {"type": positive_int, "default": 1}),
    Flag("--iterations_per_epoch", "training iterations per epoch (default: the trainer's, 250)",
         {"type": positive_int, "default": None}),
    Flag("--val_iterations_per_epoch", "validation iterations per epoch (default: the trainer's, 50)",
         {"type": positive_int, "default": None}),
)  # fmt: skip
"""The coordinator's numbers for a training; they hold for every node."""

AVERAGING_FLAGS = (
    Flag("--encoding", "format of transmitted weights: float32 = exact; float16, int8 = smaller (default: %(default)s)",
         {"choices": list(ENCODINGS), "default": "float16"}),
    Flag("--weighting", "weight of a site: its number of training cases, or equal weights (default: %(default)s)",
         {"choices": ["cases", "uniform"], "default": "cases"}),
    Flag("--aggregation", "aggregation of the sites' models: weighted mean, or median or trimmed mean, "
         "which are robust against a few wrong sites and weight all sites equally (default: %(default)s)",
         {"choices": list(AGGREGATIONS), "default": "mean"}),
    Flag("--server_optimizer", "optimizer applied to the averaged change of the global model (default: %(default)s)",
         {"choices": list(SERVER_OPTIMIZERS), "default": "none"}),
    Flag("--server_lr", "learning rate of --server_optimizer (default: 1 for momentum, 0.01 for adam and yogi)",
         {"type": positive_float, "default": None}),
    Flag("--proximal_mu", "FedProx: weight of the distance to the global model in local training (default: 0)",
         {"type": non_negative_float, "default": 0.0}),
    Flag("--optimizer_state", "the optimizer's momentum after a round: averaged with the weights, kept at its site, "
         "or reset (default: %(default)s)",
         {"choices": ["average", "local", "reset"], "default": "average"}),
    Flag("--keep_local", "tensors that stay at each site: norm = normalization layers (FedBN), averaged once, "
         "for the exported model; or a regular expression: tensors whose name matches never leave a site, such "
         "as 'encoder.stages.0|seg_layers'", {"default": None}),
    Flag("--asym_cohorts", "after --asym: average a tensor among any two or more sites that have it, "
         "not only if all sites do", {"action": "store_true"}),
)  # fmt: skip
"""The coordinator's choice of what is averaged, and how."""

OWN_MODEL_FLAGS = (
    Flag("--personalize", "after the last round, each site trains the federated model for this many more epochs, "
         "in a separate results folder (-p PLANS_personal)", {"type": positive_int, "default": None}),
    Flag("--alone", "after the last round, each site also trains a model alone, for as many epochs, to measure its "
         "benefit from the federation (-p PLANS_alone)", {"action": "store_true"}),
)  # fmt: skip
"""What the sites train beside the federation's model; --c adds it to a training that is finished."""

RECOVERY_FLAGS = (
    Flag("--c", "continue the existing training", {"action": "store_true"}),
    Flag("--overwrite", "start over, although the run folder contains an unfinished training",
         {"action": "store_true"}),
    Flag("--save_every", "rounds between two saved states (default: %(default)s)",
         {"type": positive_int, "default": 1}),
    Flag("--min_clients", "minimum number of sites to complete a round (default: all)",
         {"type": positive_int, "default": None}),
    Flag("--max_update_norm", "with three or more sites, leave a site out of a round if its update has more than this "
         "many times the median norm of the others' (default: no limit)", {"type": positive_float, "default": None}),
    Flag("--give_up_after", "seconds to wait for required sites (default: no limit)",
         {"type": positive_float, "default": None}),
)  # fmt: skip
"""What the coordinator keeps of a training, and how it goes on without some of the sites."""

OVERWRITE = Flag("--overwrite", "start over, although this site has the state of an unfinished training",
                 {"action": "store_true"})  # fmt: skip

SEED = Flag("--seed", "seed of random numbers: the same seed gives the same weights, on one machine's CPU (default: "
            "nnU-Net's, different each time)", {"type": int, "default": None})  # fmt: skip

_CONTACT_TIMEOUT = Flag("--contact_timeout", "seconds of silence after which a connection counts as broken "
                        "(default: %(default)g)", {"type": positive_float, "default": 120.0})  # fmt: skip
_SITE_FLAGS = (
    Flag("--site", "name of the site, which also identifies it when it reconnects (default: that of --key, or the "
         "dataset's)", {"default": None}),
    Flag("--retry_for", "seconds without a connection after which to give up (default: never)",
         {"type": positive_float, "default": None}),
    _CONTACT_TIMEOUT,
)  # fmt: skip

EVALUATION_FLAGS = (
    Flag("-m", "evaluate this results folder, TRAINER__PLANS__CONFIGURATION (default: the site's own)",
         {"type": Path, "default": None}),
    Flag("--checkpoint", "file in the folder of each fold (default: %(default)s)", {"default": CHECKPOINT}),
    Flag("-i", "folder with the test images (default: imagesTs)", {"type": Path, "default": None}),
    Flag("-l", "folder with their labels (default: labelsTs)", {"type": Path, "default": None}),
    Flag("-o", "folder for predictions and metrics of every case (default: evaluation_FOLD in the model's folder)",
         {"type": Path, "default": None}),
    Flag("--min_cases", "withhold figures over fewer cases than this (default: %(default)s)",
         {"type": positive_int, "default": 5}),
)  # fmt: skip
"""What a node evaluates; the model's checkpoints are read with pickle, so it must come from somebody trusted."""

_NSD_TOLERANCE = Flag("--nsd_tolerance", "also compute normalised surface Dice, with surfaces no more mm "
                      "apart than this counting as equal", {"type": positive_float, "default": None})  # fmt: skip

ASYM = Flag("--asym", "every site plans for itself and does not share its fingerprint (AsymFedAvg)",
            {"action": "store_true"})  # fmt: skip
FINGERPRINT = Flag(
    "--fingerprint",
    "what sites send: exact = counts and sums only (default); shared-cases = also spacing and shape of each case, "
    "for planners other than nnU-Net's own",
    {"choices": FINGERPRINT_MODES, "default": "exact"},
)

FEDERATION_FLAGS: dict[Task, tuple[Flag, ...]] = {
    "extract_fingerprint": (FINGERPRINT,),
    "plan_and_preprocess": (FINGERPRINT, ASYM),
    "train": (),
    "evaluate": (),
}
"""How a site takes part, apart from nnU-Net's own flags; must be the same at every site."""

_MODEL_NAME = Flag("--model_name", "name of the dataset in the exported model, "
                   "DatasetNNN_NAME (default: %(default)s)",
                   {"type": dataset_name, "default": DEFAULT_MODEL_NAME})  # fmt: skip
PLANS = Flag("--plans", "distribute these plans to all sites instead of planning: plans.json of a trained model, or a "
             "plans file of nnU-Net's", {"type": Path, "default": None, "metavar": "FILE"})  # fmt: skip
_RUN_DIR = Flag("--run_dir", "folder in which the coordinator keeps the training, and receipts for the sites' "
                "messages (default: one for each network and set of sites, in "
                "fednnunet_runs in nnUNet_results)", {"type": Path, "default": None})  # fmt: skip
ROUND_TIMEOUT = Flag("--round_timeout", "seconds that a site has for each step of a round; a slower site is left "
                      "out; a task that needs all sites ends (default: no limit)",
                      {"type": positive_float, "default": None})  # fmt: skip
_PROGRESS_FILE = Flag("--progress_file", "append events to this file, one JSON line each",
                      {"type": Path, "default": None})  # fmt: skip


TRACKER_FLAGS = (
    Flag("--wandb", "also send losses, Dice, times and bytes to Weights & Biases, to this project (default: %(const)s)",
         {"nargs": "?", "const": "fednnunet", "default": None, "metavar": "PROJECT"}),
    Flag("--mlflow", "also send them to MLflow, to this experiment (default: %(const)s), at MLFLOW_TRACKING_URI or "
         "else into the run folder",
         {"nargs": "?", "const": "fednnunet", "default": None, "metavar": "EXPERIMENT"}),
)  # fmt: skip
"""Where the coordinator sends the numbers of a training, beside TensorBoard's files in the run folder."""

QUIET = Flag("--quiet", "show warnings, errors and results only", {"action": "store_true"})
_DASHBOARD = Flag("--dashboard", "serve the live report page to browsers on this machine; PORT is "
                  f"{DEFAULT_DASHBOARD_PORT} by default",
                  {"nargs": "?", "metavar": "PORT", "type": port_number, "const": DEFAULT_DASHBOARD_PORT,
                   "default": None})  # fmt: skip


def server_flags(task: Task) -> tuple[Flag, ...]:
    """Return the flags of the coordinator for `task`, apart from where it listens."""
    of_training = (*SCHEDULE_FLAGS, *AVERAGING_FLAGS, *OWN_MODEL_FLAGS, *RECOVERY_FLAGS, _MODEL_NAME)
    own = {"train": of_training, "evaluate": (_NSD_TOLERANCE,), "plan_and_preprocess": (PLANS,)}
    tracked = TRACKER_FLAGS if task in TASKS_WITH_NETWORK else ()
    return (*own.get(task, ()), *tracked, ROUND_TIMEOUT, _RUN_DIR, _PROGRESS_FILE, _DASHBOARD, _CONTACT_TIMEOUT, QUIET)


def client_flags(task: Task) -> tuple[Flag, ...]:
    """Return the flags of a node for `task`, apart from where its coordinator is."""
    own = {"train": (OVERWRITE, SEED), "evaluate": EVALUATION_FLAGS}
    return (*FEDERATION_FLAGS[task], *own.get(task, ()), *FLAGS_OF_TASK[task])


def parse_server(argv: Sequence[str]) -> argparse.Namespace:
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
    _check_continuing(parser, arguments)
    _check_given_plans(parser, arguments, None)
    _check_quorum(parser, arguments, arguments.num_clients)
    if (arguments.tls_cert is None) != (arguments.tls_key is None):
        parser.error("--tls-cert and --tls-key go together")
    _check_dashboard(parser, arguments)
    return arguments


def parse_client(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of a node."""
    task, rest = _take_task("client", "The node of one site: works on its data, sends no data.", argv)
    parser = _task_parser("client", task)
    _add_site_positionals(parser, task, "DATASET_ID", "the site's dataset: id or name")
    own = [flag for flag in client_flags(task) if flag not in FLAGS_OF_TASK[task]]
    add_flags(parser, (HOST, PORT, *_SITE_FLAGS, *own, QUIET))
    add_flags(parser.add_argument_group("trust"), CLIENT_TRUST_FLAGS)
    add_flags(parser.add_argument_group("nnU-Net's own flags"), FLAGS_OF_TASK[task])
    arguments = parse_with_sites(parser, rest, argparse.Namespace(task=task))
    _check_continuing(parser, arguments)
    if len(arguments.dataset) > 1:
        parser.error(f"a node works on one dataset, not on {' '.join(arguments.dataset)}: start one client for each")
    (arguments.dataset,) = arguments.dataset
    _take_configurations(parser, arguments)
    return arguments


def parse_run(argv: Sequence[str]) -> argparse.Namespace:
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
    _check_continuing(parser, arguments)
    _check_given_plans(parser, arguments, "exact")
    _take_configurations(parser, arguments)
    _check_quorum(parser, arguments, len(arguments.dataset))
    _check_dashboard(parser, arguments)
    if task == "evaluate" and len(arguments.dataset) > 1 and (arguments.i or arguments.l):
        parser.error("-i and -l select the cases of one site: give them with one dataset only, or start client.py")
    for name, option in (("gpus", "--gpus"), ("gpu_memory_targets", "--gpu_memory_target")):
        values = getattr(arguments, name)
        if values is not None:
            setattr(arguments, name, split_words(values))
            if len(split_words(values)) != len(arguments.dataset):
                parser.error(f"{option} needs one value for each of the {len(arguments.dataset)} datasets: '{values}'")
    return arguments


def _check_continuing(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.task == "train" and arguments.c and arguments.overwrite:
        parser.error("--c continues what --overwrite would remove: leave one of them out")


def _check_given_plans(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, fingerprint: FingerprintMode | None
) -> None:
    if arguments.task != "plan_and_preprocess" or arguments.plans is None:
        return
    flag = "--asym" if arguments.asym else "--fingerprint" if arguments.fingerprint != fingerprint else None
    if flag is not None:
        parser.error(f"{flag} controls planning, but --plans replaces it: leave one of them out")


def _check_dashboard(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    if arguments.dashboard is not None and arguments.dashboard == arguments.port:
        parser.error(f"the nodes connect to port {arguments.port}: give --dashboard another one")


def _check_quorum(parser: argparse.ArgumentParser, arguments: argparse.Namespace, sites: int) -> None:
    if arguments.task == "train" and (arguments.min_clients or 1) > sites:
        parser.error(f"--min_clients {arguments.min_clients} exceeds the number of sites, {sites}")


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


def _take_configurations(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> None:
    """Fold CONFIGURATION and ``-c CONFIG`` into the list of configurations that are preprocessed."""
    if arguments.task == "plan_and_preprocess":
        named_with_c = [] if arguments.c is parser.get_default("c") else arguments.c
        named = list(dict.fromkeys(filter(None, [arguments.configuration, *named_with_c])))
        # nnU-Net skips what the plans do not have, if it was only the default; what a user names must exist
        arguments.explicit_configurations = bool(named)
        arguments.c = named or list(DEFAULT_CONFIGURATIONS)
