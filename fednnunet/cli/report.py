"""``fednnunet report``: rewrites the report page of a run."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the coordinator's --run_dir")


def run_report(arguments: argparse.Namespace) -> int:
    """Write the page, say where it is, and return the exit status.

    Raises
    ------
    FednnUNetError
        If the folder holds no events, or the page cannot be written.
    """
    from fednnunet.api.run import Run

    Console().print(Text(str(Run(arguments.run_dir).write_report())), soft_wrap=True)
    return 0
