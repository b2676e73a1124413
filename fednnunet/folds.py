"""Parses the FOLD argument."""

import re
from typing import Literal

from fednnunet.errors import FednnUNetError

Fold = int | Literal["all"]
"""A fold as nnU-Net's trainer takes it: its number in the split, or ``"all"`` for its own fold in which all train."""

FOLDS_OF_NNUNET = 5
"""Number of folds in nnU-Net's own split; each needs a case."""

MOST_FOLDS = 1000

FOLDS_HELP = (
    "number of a fold of the split, from 0; 'all' = all folds of the split, one after the other; "
    "'fold_all' = nnU-Net's fold 'all', every case trains"
)


def check_fold(text: str) -> None:
    """Refuse a FOLD argument that is invalid for any split.

    Raises
    ------
    FednnUNetError
        If `text` is neither a number, nor ``all``, nor ``fold_all``.
    """
    if text not in {"all", "fold_all"} and not re.fullmatch(r"0|[1-9][0-9]{0,2}", text):
        raise FednnUNetError(f"Invalid fold '{text}': give the {FOLDS_HELP}.")


def parse_folds(text: str, folds: int = FOLDS_OF_NNUNET) -> tuple[Fold, ...]:
    """Return the folds that a FOLD argument asks for, in the order in which they are trained.

    Parameters
    ----------
    text
        The argument.
    folds
        How many the split has.

    Raises
    ------
    FednnUNetError
        If `text` is not a fold, or not one of the split.
    """
    check_fold(text)
    if text == "fold_all":
        return ("all",)
    if text == "all":
        return tuple(range(folds))
    if int(text) >= folds:
        last = "only fold 0" if folds == 1 else f"the folds 0 to {folds - 1}"
        raise FednnUNetError(f"Invalid fold {text}: the split has {last}; all and fold_all are valid, too.")
    return (int(text),)


def spelled(text: str, folds: int | None) -> str:
    """Return in words, for titles, which folds a FOLD argument means where the split has so many."""
    if text == "fold_all":
        return "fold all"
    if text != "all":
        return f"fold {text}"
    if folds is None:
        return "all folds together"
    return f"folds 0-{folds - 1} together" if folds > 1 else "fold 0"
