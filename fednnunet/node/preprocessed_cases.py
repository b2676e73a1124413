"""Checks a site's preprocessed cases against the needs of a training."""

import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_OF_NNUNET, Fold, check_fold, parse_folds
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.splits import SPLITS, Splits, cases_of, check_covered, read_splits, split_of_nnunet
from fednnunet.wording import counted

logger = logging.getLogger(__name__)

_PROPERTIES = ".pkl"
_DATA = (("{}.b2nd", "{}_seg.b2nd"), ("{}.npz",), ("{}.npy", "{}_seg.npy"))
"""The files with a case's data, beside its properties: Blosc2's, or numpy's."""
_STAGE = ("{}.b2nd", "{}.npz", "{}.npy")


def find_preprocessed(folder: Path) -> list[str]:
    """Return the identifiers of the preprocessed cases in a folder, sorted; they may contain dots."""
    if not folder.is_dir():
        return []
    return sorted(name.removesuffix(_PROPERTIES) for name in os.listdir(folder) if name.endswith(_PROPERTIES))


def has_own_splits(dataset: SiteDataset) -> bool:
    """Return whether there is a split, or planning will find one."""
    return any((folder / SPLITS).is_file() for folder in (dataset.preprocessed, dataset.raw))


def check_cases(
    dataset: SiteDataset, folder: Path, fold: str, ending: str, preprocess: str, *, reads_splits: bool = True
) -> int | None:
    """Check that the cases of the requested folds exist, and return the number of folds of the split.

    Parameters
    ----------
    dataset
        The site's dataset.
    folder
        With the preprocessed cases of the configuration.
    fold
        The FOLD argument.
    ending
        nnU-Net's ``file_ending``.
    preprocess
        What to do about cases that are not there, as in "run plan_and_preprocess again".
    reads_splits
        Whether the trainer takes its folds from ``splits_final.json``. If it makes them itself, any case may train or
        validate in any fold, and how many folds there are is not known.

    Raises
    ------
    FednnUNetError
        If the split is not one of these cases, does not have the fold, or a file is missing or empty.
    """
    cases = find_preprocessed(folder)
    if not reads_splits:
        check_fold(fold)
        _check_files(folder, cases, preprocess)
        _check_truth(dataset, {f"{case}{ending}" for case in cases}, preprocess)
        return FOLDS_OF_NNUNET if fold in {"all", "fold_all"} else max(FOLDS_OF_NNUNET, int(fold) + 1)
    splits = None if fold == "fold_all" else _splits(dataset, cases)
    if splits is None and fold != "fold_all":
        raise FednnUNetError(
            f"Site {dataset.name} has {counted(len(cases), 'case')}, too few for nnU-Net's five "
            f"folds: train with FOLD fold_all, or write {dataset.preprocessed / SPLITS}."
        )
    try:
        folds = parse_folds(fold, len(splits or []))
    except FednnUNetError as error:
        where = dataset.preprocessed / SPLITS
        raise FednnUNetError(f"Site {dataset.name}, {where}: {error}" if where.is_file() else str(error)) from error
    wanted = set(cases) if splits is None else cases_of(splits, folds)
    _check_files(folder, wanted, preprocess)
    _check_truth(dataset, {f"{case}{ending}" for case in _validated(splits, folds, cases)}, preprocess)
    return None if splits is None else len(splits)


def check_previous_stage(folder: Path, cases: Iterable[str], remedy: str) -> None:
    """Check that the previous stage of a cascade has predicted all of these cases.

    Parameters
    ----------
    folder
        nnU-Net's ``predicted_next_stage/CONFIGURATION``.
    cases
        Identifiers.
    remedy
        What to do if it has not.

    Raises
    ------
    FednnUNetError
        Names the first case that it lacks.
    """
    missing = [case for case in sorted(cases) if not any(_holds(folder / name.format(case)) for name in _STAGE)]
    if missing:
        raise FednnUNetError(f"{folder} has no prediction of the case {missing[0]}{_more(missing)}: {remedy}.")


def cases_of_folds(dataset: SiteDataset, folder: Path, fold: str, *, reads_splits: bool = True) -> set[str]:
    """Return the cases that train or validate in the folds that a FOLD argument asks for; see `check_cases`."""
    cases = find_preprocessed(folder)
    if not reads_splits:
        return set(cases)
    splits = _splits(dataset, cases)
    if splits is None or fold == "fold_all":
        return set(cases)
    return cases_of(splits, parse_folds(fold, len(splits)))


def _splits(dataset: SiteDataset, cases: Collection[str]) -> Splits | None:
    path = dataset.preprocessed / SPLITS
    if not path.exists():
        return split_of_nnunet(sorted(cases))
    splits = read_splits(path, cases)
    warning = check_covered(path, splits, cases)
    if warning is not None:
        logger.warning("%s", warning)
    return splits


def _validated(splits: Splits | None, folds: Iterable[Fold], cases: Collection[str]) -> set[str]:
    if splits is None:
        return set(cases)
    return {case for fold in folds if fold != "all" for case in splits[fold]["val"]}


def _check_files(folder: Path, cases: Collection[str], preprocess: str) -> None:
    """Refuse a case of which nnU-Net's loader would find a part only: it would say so in the middle of an epoch."""
    files = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    for case in sorted(cases):
        names = [f"{case}{_PROPERTIES}", *_data_files(case, files)]
        damaged = [name for name in names if not files.get(name)]
        if damaged:
            what = "is empty" if damaged[0] in files else "is missing"
            raise FednnUNetError(f"{folder / damaged[0]} {what}: {preprocess}.")


def _data_files(case: str, files: Mapping[str, int]) -> list[str]:
    sets: list[list[str]] = [[name.format(case) for name in names] for names in _DATA]
    return next((names for names in sets if names[0] in files), sets[0])


def _check_truth(dataset: SiteDataset, names: Collection[str], preprocess: str) -> None:
    """Refuse validation cases without the segmentation with which nnU-Net compares, after the last round."""
    folder = dataset.preprocessed / "gt_segmentations"
    missing = [name for name in sorted(names) if not _holds(folder / name)]
    if missing:
        raise FednnUNetError(f"{folder} has no segmentation {missing[0]}{_more(missing)}: {preprocess}.")


def _holds(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def _more(cases: Collection[str]) -> str:
    return "" if len(cases) == 1 else f" and {len(cases) - 1} more"
