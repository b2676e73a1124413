"""Splits cases into training and validation, at each site and in the pooled data."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.folds import FOLDS_OF_NNUNET, parse_folds
from fednnunet.node.splits import SPLITS, Splits, read_splits, split_of_nnunet
from fednnunet.wording import counted


def site_splits(name: str, cases: Sequence[str], folders: Sequence[Path], fold: str) -> Splits | None:
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
    fold
        The FOLD argument.

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
    splits = read_splits(found, cases) if found is not None else split_of_nnunet(sorted(cases))
    if fold == "fold_all":
        return splits
    if splits is None:
        raise FednnUNetError(
            f"Site {name} has {counted(len(cases), 'case')}, too few for nnU-Net's "
            f"{FOLDS_OF_NNUNET} folds: compare with FOLD fold_all, or give the site a {SPLITS}."
        )
    try:
        parse_folds(fold, len(splits))
    except FednnUNetError as error:
        raise FednnUNetError(f"Site {name}: {error}") from error
    return splits


def check_numbers(splits: Mapping[str, Splits | None]) -> None:
    """Refuse sites whose splits have different numbers of folds, where all folds are to be trained.

    Raises
    ------
    FednnUNetError
        Names two of them.
    """
    numbers = {site: len(of_site) for site, of_site in splits.items() if of_site is not None}
    first = next(iter(numbers))
    for site, number in numbers.items():
        if number != numbers[first]:
            raise FednnUNetError(
                f"Site {site} has {number} folds, site {first} has {numbers[first]}: choose one fold, or give the same "
                f"number of folds to every {SPLITS}."
            )


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
