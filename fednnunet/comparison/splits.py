"""Which cases train and which validate, at each site and where all data are pooled."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from batchgenerators.utilities.file_and_folder_operations import load_json

from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_OF_NNUNET, Fold

SPLITS = "splits_final.json"

Splits: TypeAlias = list[dict[str, list[str]]]
"""One entry for each fold: the cases in ``train`` and in ``val``."""


def site_splits(name: str, cases: Sequence[str], folders: Sequence[Path], folds: Sequence[Fold]) -> Splits | None:
    """Return the folds of a site.

    Parameters
    ----------
    name
        Name of the site, for errors.
    cases
        Identifiers of its training cases.
    folders
        Where its ``splits_final.json`` may be, the first one counts; without one, the folds are those that nnU-Net
        makes (``generate_crossval_split``).
    folds
        The folds that are to be trained.

    Returns
    -------
    Splits | None
        ``None`` if the site brings no folds and has too few cases for nnU-Net's.

    Raises
    ------
    FednnUNetError
        If a fold is not among them, or they name cases that the site does not have.
    """
    found = next((folder / SPLITS for folder in folders if (folder / SPLITS).is_file()), None)
    splits = _read(name, found, set(cases)) if found is not None else _of_nnunet(cases)
    wanted = [fold for fold in folds if fold != "all"]
    if not wanted:
        return splits
    if splits is None:
        raise FednnUNetError(
            f"Site {name} has {len(cases)} case{'' if len(cases) == 1 else 's'}, too few for nnU-Net's "
            f"{FOLDS_OF_NNUNET} folds: compare with FOLD fold_all, or give the site a {SPLITS}."
        )
    missing = [fold for fold in wanted if fold >= len(splits)]
    if missing:
        raise FednnUNetError(
            f"{found} of site {name} has no fold {missing[0]}, only {len(splits)}: choose another FOLD."
        )
    return splits


def union(splits: Mapping[str, Splits | None]) -> Splits | None:
    """Return the folds of the pooled data: those of all sites together.

    Parameters
    ----------
    splits
        The folds of each site, whose cases are named as in the pooled dataset.

    Returns
    -------
    Splits | None
        As many folds as all sites have; ``None`` if a site has none.
    """
    each = list(splits.values())
    known = [site for site in each if site is not None]
    if len(known) < len(each):
        return None
    return [
        {part: [case for site in of_sites for case in site[part]] for part in ("train", "val")}
        for of_sites in zip(*known, strict=False)
    ]


def _of_nnunet(cases: Sequence[str]) -> Splits | None:
    if len(cases) < FOLDS_OF_NNUNET:
        return None
    from nnunetv2.utilities.crossval_split import generate_crossval_split

    return [
        {part: [str(case) for case in fold[part]] for part in ("train", "val")}
        for fold in generate_crossval_split(sorted(cases), seed=12345, n_splits=FOLDS_OF_NNUNET)
    ]


def _read(name: str, path: Path, cases: set[str]) -> Splits:
    try:
        content: Any = load_json(str(path))
        splits = [{part: [str(case) for case in fold[part]] for part in ("train", "val")} for fold in content]
    except (ValueError, KeyError, TypeError) as error:
        raise FednnUNetError(f"{path} of site {name} is no list of folds with train and val: correct it.") from error
    unknown = [case for fold in splits for part in fold.values() for case in part if case not in cases]
    if unknown:
        raise FednnUNetError(f"{path} names the case {unknown[0]}, which site {name} does not have: correct it.")
    return splits
