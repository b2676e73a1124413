"""What the FOLD argument means."""

from typing import Literal

from fednnunet.errors import FednnUNetError

Fold = int | Literal["all"]
"""A fold as nnU-Net's trainer takes it: 0-4, or ``"all"`` for its own fold in which every case trains."""

FOLDS_OF_NNUNET = 5
"""Folds into which nnU-Net splits a dataset that brings no split of its own; each needs a case."""

FOLDS_HELP = "0-4; 'all' = the five folds, one after the other; 'fold_all' = nnU-Net's fold 'all', every case trains"


def parse_folds(text: str) -> tuple[Fold, ...]:
    """Return the folds that a FOLD argument asks for, in the order in which they are trained.

    Raises
    ------
    FednnUNetError
        If `text` is none of ``0``-``4``, ``all``, ``fold_all``.
    """
    if text == "all":
        return (0, 1, 2, 3, 4)
    if text == "fold_all":
        return ("all",)
    if text in {"0", "1", "2", "3", "4"}:
        return (int(text),)
    raise FednnUNetError(f"'{text}' is no fold: give one of {FOLDS_HELP}.")
