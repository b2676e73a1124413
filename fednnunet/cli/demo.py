"""The parser of ``fednnunet demo``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from fednnunet.demo.demo import LENGTH_2D, LENGTH_3D, DemoSettings
from fednnunet.settings.flag import filled
from fednnunet.settings.values import positive_int


def parse_demo(argv: Sequence[str]) -> DemoSettings:
    """Parse the command line of ``fednnunet demo``."""
    parser = argparse.ArgumentParser(prog="fednnunet demo", description="Three synthetic hospitals train together.")
    _add_arguments(parser)
    return filled(DemoSettings, vars(parser.parse_args(argv)))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the demo's arguments."""
    parser.add_argument("--3d", dest="three_dimensional", action="store_true", help="volumes, not 2D images; slower")
    parser.add_argument(
        "--out", type=Path, default=Path("fednnunet_demo"), help="output folder, new (default: ./%(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the synthetic patients (default: %(default)s)")
    for name, what in (("rounds", "rounds of the federation"), ("iterations_per_epoch", "iterations of a round")):
        in_2d, in_3d = getattr(LENGTH_2D, name), getattr(LENGTH_3D, name)
        parser.add_argument(
            f"--{name}", type=positive_int, default=None, help=f"{what} (default: {in_2d}; in 3D: {in_3d})"
        )
    parser.add_argument(
        "-device", choices=("cpu", "cuda", "mps"), default=None, help="default: cuda if there is a GPU, else cpu"
    )
    parser.add_argument(
        "--secure", action="store_true", help="mask fingerprint and updates: the coordinator sees only their sums"
    )
    parser.add_argument("--verbose", action="store_true", help="show the output of the commands")
    parser.add_argument(
        "--data-only", action="store_true", help="only generate the data, and print the variables to set"
    )
