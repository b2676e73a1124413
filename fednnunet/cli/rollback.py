"""``fednnunet rollback``: returns to an earlier round of a training."""

import argparse
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fednnunet.errors import FednnUNetError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    from fednnunet.settings.values import positive_int

    parser.add_argument("run_dir", metavar="RUN_DIR", type=Path, help="the coordinator's --run_dir")
    parser.add_argument("--fold", default=None, help="the fold (default: the only one)")
    parser.add_argument("--to", metavar="ROUND", type=positive_int, required=True, help="the round to return to")


def run_rollback(arguments: argparse.Namespace) -> int:
    """Go back, say where the later rounds are, and return the exit status.

    Raises
    ------
    FednnUNetError
        If there is no such model, or a coordinator is at work.
    """
    from fednnunet.coordinator.run_folder import FoldFolder, alone_in

    run_dir: Path = arguments.run_dir
    folder = FoldFolder(run_dir / f"fold_{_fold(run_dir, arguments.fold)}")
    with alone_in(run_dir):
        aside = folder.roll_back(arguments.to)
    text = f"Round {arguments.to} is now the latest; later ones are in {aside}. Continue with --c."
    Console().print(Text(text), soft_wrap=True)
    return 0


def _fold(run_dir: Path, wanted: str | None) -> str:
    from fednnunet.coordinator.run_folder import folds_in

    folds = folds_in(run_dir)
    if wanted is not None and wanted.removeprefix("fold_") in folds:
        return wanted.removeprefix("fold_")
    if not folds:
        raise FednnUNetError(f"{run_dir} contains no training: give the coordinator's --run_dir.")
    if wanted is None and len(folds) == 1:
        return folds[0]
    raise FednnUNetError(f"{run_dir} contains fold {', '.join(folds)}: choose one with --fold.")
