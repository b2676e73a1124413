"""The parser of ``fednnunet compare``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fednnunet.cli.site_words import parse_with_sites
from fednnunet.comparison.flags import (
    ANY_TRAINING_FLAGS,
    COHORT_FLAGS,
    COMMON_PLANS_FLAGS,
    FEDERATED_TRAINING_FLAGS,
    PERSONALIZE,
    PLANNING_FLAGS,
    TESTING_FLAGS,
)
from fednnunet.comparison.methods import METHODS, PERSONAL, read_methods
from fednnunet.comparison.settings import ComparisonSettings
from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_HELP
from fednnunet.settings.flag import add_flags, filled
from fednnunet.settings.values import split_words


def parse_compare(argv: Sequence[str]) -> ComparisonSettings:
    """Parse the command line of ``fednnunet compare``."""
    parser = compare_parser()
    arguments = parse_with_sites(parser, argv, argparse.Namespace())
    values, sites = vars(arguments), len(arguments.dataset)
    default = [*METHODS, *([PERSONAL] if arguments.personalize is not None else [])]
    try:
        methods = read_methods(arguments.methods or default, values)
    except FednnUNetError as error:
        parser.error(str(error))
    seeds = split_words(" ".join(arguments.seeds))
    if not all(word.isdecimal() for word in seeds):
        parser.error(f"--seeds: '{' '.join(seeds)}' are not whole numbers")
    for name in ("gpus", "round_timeout"):
        if arguments.in_process and values[name] is not None:
            parser.error(f"--{name} does not apply with --in_process, where sites take turns: leave one of them out")
    gpus = None if arguments.gpus is None else split_words(arguments.gpus)
    if gpus is not None and len(gpus) != sites:
        parser.error(f"--gpus needs one value for each of the {sites} datasets")
    if (arguments.min_clients or 1) > sites:
        parser.error(f"--min_clients {arguments.min_clients} exceeds the number of sites, {sites}")
    read = {
        "datasets": arguments.dataset,
        "external": split_words(arguments.external),
        "methods": methods,
        "seeds": tuple(dict.fromkeys(map(int, seeds))) or (None,),
        "gpus": gpus,
    }
    return filled(ComparisonSettings, {**values, **read})


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
