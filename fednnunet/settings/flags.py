"""The flags of coordinator and node, by task; nnU-Net's own are in `nnunet_flags`."""

from pathlib import Path

from fednnunet.evaluation.prediction import CHECKPOINT
from fednnunet.protocol.messages import FINGERPRINT_MODES, TASKS_WITH_NETWORK, Task
from fednnunet.settings.coordinator import DEFAULT_HOST, DEFAULT_PORT
from fednnunet.settings.flag import Flag
from fednnunet.settings.nnunet_flags import FLAGS_OF_TASK
from fednnunet.settings.values import (
    DEFAULT_MODEL_NAME,
    dataset_name,
    host_name,
    non_negative_float,
    port_number,
    positive_float,
    positive_int,
)
from fednnunet.weights.aggregation import AGGREGATIONS
from fednnunet.weights.encoding import ENCODINGS
from fednnunet.weights.server_optimizers import SERVER_OPTIMIZERS

DEFAULT_DASHBOARD_PORT = 8090

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
    Flag("--ca-cert", "certificate of the authority that signed the coordinator's, PEM; 'system' for those that this "
         "machine trusts", {"default": None}),
    Flag("--key", "this site's private key, see 'fednnunet keys create'", {"type": Path, "default": None}),
    Flag("--sites", "this hospital's own list of sites: answers about cases and trained weights leave as terms of "
         "masked sums only; needs --key", {"type": Path, "default": None}),
    Flag("--policy", "rules about outgoing messages, see 'fednnunet policy create' (default: all messages of the "
         "task)",
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
    Flag("--encoding", "format of transmitted weights: float32 = exact; float16, int8 = smaller (default: "
         "%(default)s)",
         {"choices": list(ENCODINGS), "default": "float16"}),
    Flag("--weighting", "weight of a site: its number of training cases, or equal weights (default: %(default)s)",
         {"choices": ["cases", "uniform"], "default": "cases"}),
    Flag("--aggregation", "aggregation of the sites' models: weighted mean, or median or trimmed mean, which are "
         "robust against a few wrong sites and weight all sites equally (default: %(default)s)",
         {"choices": AGGREGATIONS, "default": "mean"}),
    Flag("--server_optimizer", "optimizer applied to the averaged change of the global model (default: %(default)s)",
         {"choices": SERVER_OPTIMIZERS, "default": "none"}),
    Flag("--server_lr", "learning rate of --server_optimizer (default: 1 for momentum, 0.01 for adam and yogi)",
         {"type": positive_float, "default": None}),
    Flag("--proximal_mu", "FedProx: weight of the distance to the global model in local training (default: 0)",
         {"type": non_negative_float, "default": 0.0}),
    Flag("--optimizer_state", "the optimizer's momentum after a round: averaged with the weights, kept at its site, "
         "or reset (default: %(default)s)",
         {"choices": ["average", "local", "reset"], "default": "average"}),
    Flag("--keep_local", "tensors that stay at each site: norm = normalization layers (FedBN), averaged once, for "
         "the exported model; or a regular expression: tensors whose name matches never leave a site, such as "
         "'encoder.stages.0|seg_layers'", {"default": None}),
    Flag("--asym_cohorts", "after --asym: average a tensor among any two or more sites that have it, not only if all "
         "sites do", {"action": "store_true"}),
)  # fmt: skip
"""The coordinator's choice of what is averaged, and how."""

OWN_MODEL_FLAGS = (
    Flag("--personalize", "after the last round, each site trains the federated model for this many more epochs, in "
         "a separate results folder (-p PLANS_personal)", {"type": positive_int, "default": None}),
    Flag("--alone", "after the last round, each site also trains a model alone, for as many epochs, to measure its "
         "benefit from the federation (-p PLANS_alone)", {"action": "store_true"}),
)  # fmt: skip
"""What the sites train beside the federation's model; --c adds it to a training that is finished."""

RECOVERY_FLAGS = (
    Flag("--c", "continue the existing training", {"action": "store_true", "dest": "resume"}),
    Flag("--overwrite", "start over, although the run folder contains an unfinished training",
         {"action": "store_true"}),
    Flag("--save_every", "rounds between two saved states (default: %(default)s)",
         {"type": positive_int, "default": 1}),
    Flag("--min_clients", "minimum number of sites to complete a round (default: all)",
         {"type": positive_int, "default": None}),
    Flag("--max_update_norm", "with three or more sites, leave a site out of a round if its update has more than "
         "this many times the median norm of the others' (default: no limit)",
         {"type": positive_float, "default": None}),
    Flag("--give_up_after", "seconds to wait for required sites (default: no limit)",
         {"type": positive_float, "default": None}),
)  # fmt: skip
"""What the coordinator keeps of a training, and how it goes on without some of the sites."""

OVERWRITE = Flag("--overwrite", "start over, although this site has the state of an unfinished training",
                 {"action": "store_true"})  # fmt: skip

SEED = Flag("--seed", "seed of random numbers: the same seed gives the same weights, on one machine's CPU (default: "
            "nnU-Net's, different each time)", {"type": int, "default": None})  # fmt: skip

_CONTACT_TIMEOUT = Flag("--contact_timeout", "seconds of silence after which a connection counts as broken (default: "
                        "%(default)g)", {"type": positive_float, "default": 120.0})  # fmt: skip
SITE_FLAGS = (
    Flag("--site", "name of the site, which also identifies it when it reconnects (default: that of --key, or the "
         "dataset's)", {"default": None}),
    Flag("--retry_for", "seconds without a connection after which to give up (default: never)",
         {"type": positive_float, "default": None}),
    _CONTACT_TIMEOUT,
)  # fmt: skip

EVALUATION_FLAGS = (
    Flag("-m", "evaluate this results folder, TRAINER__PLANS__CONFIGURATION (default: the site's own)",
         {"type": Path, "default": None, "dest": "model"}),
    Flag("--checkpoint", "file in the folder of each fold (default: %(default)s)", {"default": CHECKPOINT}),
    Flag("-i", "folder with the test images (default: imagesTs)", {"type": Path, "default": None, "dest": "images"}),
    Flag("-l", "folder with their labels (default: labelsTs)", {"type": Path, "default": None, "dest": "labels"}),
    Flag("-o", "folder for predictions and metrics of every case (default: evaluation_FOLD in the model's folder)",
         {"type": Path, "default": None, "dest": "output"}),
    Flag("--min_cases", "withhold figures over fewer cases than this (default: %(default)s)",
         {"type": positive_int, "default": 5}),
)  # fmt: skip
"""What a node evaluates; the model's checkpoints are read with pickle, so it must come from somebody trusted."""

_NSD_TOLERANCE = Flag("--nsd_tolerance", "also compute normalised surface Dice, with surfaces no more mm apart than "
                      "this counting as equal", {"type": positive_float, "default": None})  # fmt: skip

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

SECURE = Flag("--secure", "answers about cases and updates come as terms of masked sums, of which the coordinator sees "
              "only the sum; a server needs --sites", {"action": "store_true"})  # fmt: skip

_MODEL_NAME = Flag("--model_name", "name of the dataset in the exported model, DatasetNNN_NAME (default: %(default)s)",
                   {"type": dataset_name, "default": DEFAULT_MODEL_NAME})  # fmt: skip
PLANS = Flag("--plans", "distribute these plans to all sites instead of planning: plans.json of a trained model, or "
             "a plans file of nnU-Net's",
             {"type": Path, "default": None, "dest": "given_plans", "metavar": "FILE"})  # fmt: skip
_RUN_DIR = Flag("--run_dir", "folder in which the coordinator keeps the training, and receipts for the sites' "
                "messages (default: one for each network and set of sites, in fednnunet_runs in nnUNet_results)",
                {"type": Path, "default": None})  # fmt: skip
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
    summed = () if task == "evaluate" else (SECURE,)
    of_all = (ROUND_TIMEOUT, _RUN_DIR, _PROGRESS_FILE, _DASHBOARD, _CONTACT_TIMEOUT, QUIET)
    return (*own.get(task, ()), *summed, *tracked, *of_all)


def client_flags(task: Task) -> tuple[Flag, ...]:
    """Return the flags of a node for `task`, apart from where its coordinator is."""
    own = {"train": (OVERWRITE, SEED), "evaluate": EVALUATION_FLAGS}
    return (*FEDERATION_FLAGS[task], *own.get(task, ()), *FLAGS_OF_TASK[task])
