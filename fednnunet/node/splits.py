"""``splits_final.json``: reads the folds, and checks them against the existing cases."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json
from fednnunet.folds import FOLDS_OF_NNUNET, Fold
from fednnunet.wording import counted

SPLITS = "splits_final.json"

Splits: TypeAlias = list[dict[str, list[str]]]
"""One entry for each fold: the cases in ``train`` and in ``val``."""

_REMEDY = "delete it, so that nnU-Net creates new folds, and train all of them again"


def read_splits(path: Path, cases: Collection[str]) -> Splits:
    """Return the folds that a file holds.

    Parameters
    ----------
    path
        The file.
    cases
        Identifiers of the cases that there are.

    Raises
    ------
    FednnUNetError
        If the file is damaged, has no fold, or one without cases, or names a case that is not there.
    """
    content = read_json(path, _REMEDY)
    form = f"it should be a list of folds, each with the cases in train and val: correct it, or {_REMEDY}"
    if not isinstance(content, list) or not content:
        raise FednnUNetError(f"{path} is not a valid split, {form}.")
    splits = [_fold(fold, f"{path} is not a valid split (fold {i}), {form}.") for i, fold in enumerate(content)]
    there = set(cases)
    for number, fold in enumerate(splits):
        for part, named in fold.items():
            if not named:
                what = "training" if part == "train" else "validation"
                raise FednnUNetError(f"{path} has no {what} cases in fold {number}: correct it, or {_REMEDY}.")
            gone = [case for case in named if case not in there]
            if gone:
                raise FednnUNetError(
                    f"{path} names the case {gone[0]} in fold {number}{_and_others(gone)}, which is not among the "
                    f"{len(there)} existing cases: restore it, correct the file, or {_REMEDY}."
                )
    return splits


def left_out(splits: Splits, cases: Collection[str]) -> list[str]:
    """Return the cases that are in no fold, sorted."""
    return sorted(set(cases) - {case for fold in splits for part in fold.values() for case in part})


def check_covered(path: Path, splits: Splits, cases: Collection[str]) -> str | None:
    """Return a warning if a split leaves cases out, ``None`` if it does not.

    Raises
    ------
    FednnUNetError
        If it is one that nnU-Net has made itself: then cases have come since, and nobody has left them out on purpose.
    """
    missing = left_out(splits, cases)
    if not missing:
        return None
    told = f"{path} has no fold with the case {missing[0]}{_and_others(missing)}"
    if splits == split_of_nnunet(sorted(set(cases) - set(missing))):
        raise FednnUNetError(
            f"{told}: nnU-Net created it for fewer than {len(set(cases))} cases; {_REMEDY}, or add the cases to it."
        )
    return f"{told}: they neither train nor validate. If that is not intended, add them to the file."


def split_of_nnunet(cases: Sequence[str]) -> Splits | None:
    """Return the folds that nnU-Net creates without a file; ``None`` for fewer cases than it needs.

    Parameters
    ----------
    cases
        Identifiers, sorted.
    """
    if len(cases) < FOLDS_OF_NNUNET:
        return None
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    return [
        {part: [str(case) for case in fold[part]] for part in ("train", "val")}
        for fold in generate_crossval_split(list(cases), seed=12345, n_splits=FOLDS_OF_NNUNET)
    ]


def cases_of(splits: Splits, folds: Sequence[Fold]) -> set[str]:
    """Return the cases that train or validate in these folds."""
    return {case for fold in folds if fold != "all" for part in splits[fold].values() for case in part}


def _fold(content: Any, problem: str) -> dict[str, list[str]]:
    if not isinstance(content, dict) or not all(
        isinstance(content.get(part), list) and all(isinstance(case, str) for case in content[part])
        for part in ("train", "val")
    ):
        raise FednnUNetError(problem)
    return {part: list(content[part]) for part in ("train", "val")}


def _and_others(cases: Sequence[str]) -> str:
    return "" if len(cases) == 1 else f" and {counted(len(cases) - 1, 'other')}"
