"""The flags of ``fednnunet compare``: those of the tasks that it runs."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from fednnunet.cli.arguments import (
    AVERAGING_FLAGS,
    FINGERPRINT,
    OWN_MODEL_FLAGS,
    RECOVERY_FLAGS,
    ROUND_TIMEOUT,
    SCHEDULE_FLAGS,
    client_flags,
    server_flags,
)
from fednnunet.cli.nnunet_flags import PLAN_AND_PREPROCESS_FLAGS, TRAIN_FLAGS, Flag, add_flags
from fednnunet.cli.site_words import parse_with_sites, split_words
from fednnunet.comparison.methods import METHODS, PERSONAL, read_methods
from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_HELP


def _named(flags: Iterable[Flag], *names: str) -> tuple[Flag, ...]:
    return tuple(flag for flag in flags if flag.name in names)


def _without(flags: Iterable[Flag], *names: str) -> tuple[Flag, ...]:
    return tuple(flag for flag in flags if flag.name not in names)


PLANNING_FLAGS = _without(PLAN_AND_PREPROCESS_FLAGS, "-d", "-c", "--no_pp", "--verbose", "--no_pbar")
COMMON_PLANS_FLAGS = (FINGERPRINT,)
"""Of planning, but not where every site plans for itself."""
ANY_TRAINING_FLAGS = (
    *_named(TRAIN_FLAGS, "-tr", "-p", "-device"),
    *SCHEDULE_FLAGS,
    *_named(RECOVERY_FLAGS, "--save_every"),
)
COHORT_FLAGS = _named(AVERAGING_FLAGS, "--asym_cohorts")
FEDERATED_TRAINING_FLAGS = (
    *_without(AVERAGING_FLAGS, "--asym_cohorts"),
    *_named(RECOVERY_FLAGS, "--min_clients", "--give_up_after"),
    ROUND_TIMEOUT,
)
"""Of trainings in which several sites take part."""
PERSONALIZE = _named(OWN_MODEL_FLAGS, "--personalize")[0]
"""For how many epochs the models of the method `personal` are trained on."""
TESTING_FLAGS = (
    *_named(server_flags("evaluate"), "--nsd_tolerance"),
    *_named(client_flags("evaluate"), "-step_size", "--disable_tta", "--checkpoint"),
)
"""Of evaluations; they may change when a comparison is continued."""

SETTLED_FLAGS = (*PLANNING_FLAGS, *COMMON_PLANS_FLAGS, *ANY_TRAINING_FLAGS, *FEDERATED_TRAINING_FLAGS, *COHORT_FLAGS)
"""Flags that cannot change when a comparison continues."""


def parse_compare(argv: Sequence[str]) -> argparse.Namespace:
    """Parse the command line of ``fednnunet compare``."""
    parser = compare_parser()
    arguments = parse_with_sites(parser, argv, argparse.Namespace())
    arguments.external = split_words(arguments.external)
    default = [*METHODS, *([PERSONAL] if arguments.personalize is not None else [])]
    try:
        arguments.methods = read_methods(arguments.methods or default, arguments)
    except FednnUNetError as error:
        parser.error(str(error))
    words = split_words(" ".join(arguments.seeds))
    if not all(word.isdecimal() for word in words):
        parser.error(f"--seeds: '{' '.join(words)}' are not whole numbers")
    arguments.seeds = list(dict.fromkeys(map(int, words))) or [None]
    for name in ("gpus", "round_timeout"):
        if arguments.in_process and getattr(arguments, name) is not None:
            parser.error(f"--{name} does not apply with --in_process, where sites take turns: leave one of them out")
    if arguments.gpus is not None:
        arguments.gpus = split_words(arguments.gpus)
        if len(arguments.gpus) != len(arguments.dataset):
            parser.error(f"--gpus needs one value for each of the {len(arguments.dataset)} datasets")
    if (arguments.min_clients or 1) > len(arguments.dataset):
        parser.error(f"--min_clients {arguments.min_clients} exceeds the number of sites, {len(arguments.dataset)}")
    return arguments


def compare_parser() -> argparse.ArgumentParser:
    """Return the parser of ``fednnunet compare``."""
    parser = argparse.ArgumentParser(
        prog="fednnunet compare",
        description="Train locally, federated (AsymFedAvg, FFE) and centralized under the same conditions, on one "
        "machine, and compare the models on the sites' test cases and on external datasets.",
        allow_abbrev=False,
    )
    parser.add_argument("dataset", metavar="DATASET_IDS", help='the datasets of all sites, in quotes: "511 512 513"')
    parser.add_argument("configuration", metavar="CONFIGURATION", help="2d, 3d_fullres, 3d_lowres …")
    parser.add_argument("fold", metavar="FOLD", help=f"{FOLDS_HELP}; several folds predict together")
    parser.add_argument("--external", default="", help='datasets for tests only, in quotes: "514 515"')
    parser.add_argument(
        "--methods",
        nargs="+",
        default=[],
        metavar="METHOD",
        help=f"methods: {', '.join([*METHODS, PERSONAL])}, or one of them with flags of its training, in "
        "quotes, optionally named: 'FedBN=ffe --keep_local norm' (default: local asym ffe centralized, and "
        "personal with --personalize)",
    )
    parser.add_argument(
        "--seeds",
        nargs="+",
        default=[],
        metavar="N",
        help="train each method once per seed, and report means (default: once, without a seed)",
    )
    parser.add_argument(
        "--in_process",
        action="store_true",
        help="train each federation in one process, site after site: the same weights, faster if sites share a "
        "machine's cores or one GPU",
    )
    parser.add_argument(
        "--test",
        choices=("test", "validation"),
        default="test",
        help="test cases of each site: those in imagesTs and labelsTs (default), or the validation cases "
        "of a single FOLD, which do not train",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=None,
        help="output folder (default: fednnunet_runs/compare_IDS_CONFIGURATION_FOLD in nnUNet_results); the "
        "same command continues an interrupted comparison",
    )
    parser.add_argument("--overwrite", action="store_true", help="remove the results there, and start over")
    parser.add_argument("--gpus", default=None, help='GPU of each site: "0 1 1" (default: round robin)')
    parser.add_argument("--verbose", action="store_true", help="show the output of the commands")
    add_flags(parser.add_argument_group("planning"), (*COMMON_PLANS_FLAGS, *PLANNING_FLAGS))
    add_flags(parser.add_argument_group("training"), ANY_TRAINING_FLAGS)
    federated = parser.add_argument_group("federated training")
    add_flags(federated, (*FEDERATED_TRAINING_FLAGS, *COHORT_FLAGS))
    PERSONALIZE.add_to(federated)
    add_flags(parser.add_argument_group("evaluation"), TESTING_FLAGS)
    return parser
