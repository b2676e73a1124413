"""Removes the names of a site's cases from outgoing sentences, whatever their source.

Errors about one case are `CaseError`; this covers all others, including those of nnU-Net and its extensions.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.dataset_json import DATASET_JSON
from fednnunet.node.splits import SPLITS

_A_CASE = "a case of this site"
_RAW = ("imagesTr", "labelsTr", "imagesTs", "labelsTs")
_ENDING = re.compile(r"(?:\.nii)?\.[^.]*$")
_PART = re.compile(r"_(?:\d{4}|seg)$")
"""nnU-Net's suffixes of case names: the number of a channel, or of the segmentation."""


def without_cases(text: str, dataset: SiteDataset) -> str:
    """Return a sentence without the names of cases that a site has, or that its split or ``dataset.json`` names.

    A name is taken out wherever it stands alone, or before a dot or an underscore, as in the names of files.
    """
    names = sorted({name for name in _names(dataset) if name in text}, key=len, reverse=True)
    if not names:
        return text
    pattern = "|".join(map(re.escape, names))
    return re.sub(rf"(?<![^\W_])(?:{pattern})(?![^\W_])", _A_CASE, text)


def _names(dataset: SiteDataset) -> Iterator[str]:
    """Yield the names, possibly repeated; unreadable folders have none."""
    for folder in _folders(dataset):
        with contextlib.suppress(OSError):
            for file in os.listdir(folder):
                stem = _ENDING.sub("", file)
                yield from {stem, _PART.sub("", stem)} - {""}
    for path in _lists(dataset):
        with contextlib.suppress(FednnUNetError):
            yield from _named(read_json(path, "correct it"))


def _folders(dataset: SiteDataset) -> Iterator[str]:
    with contextlib.suppress(FednnUNetError):
        yield from (str(dataset.raw / name) for name in _RAW)
    with contextlib.suppress(FednnUNetError, OSError):
        yield from (entry.path for entry in os.scandir(dataset.preprocessed) if entry.is_dir())


def _lists(dataset: SiteDataset) -> Iterator[Path]:
    for name in (DATASET_JSON, SPLITS):
        with contextlib.suppress(FednnUNetError):
            yield dataset.raw / name
        with contextlib.suppress(FednnUNetError):
            yield dataset.preprocessed / name


def _named(content: object) -> Iterator[str]:
    """Give the cases that a ``dataset.json`` lists, or a split, as far as they are of that form."""
    listed = content.get("dataset") if isinstance(content, dict) else None
    folds = content if isinstance(content, list) else []
    parts = [fold.get(part) for fold in folds if isinstance(fold, dict) for part in ("train", "val")]
    for cases in (listed, *parts):
        if isinstance(cases, dict | list):
            yield from (case for case in cases if isinstance(case, str) and case)
