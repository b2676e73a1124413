"""Prepares the raw data of a comparison: links to the datasets with one split, and the pooled data."""

import contextlib
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchgenerators.utilities.file_and_folder_operations import save_json

from fednnunet.comparison.splits import union
from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import CaseFiles, SiteDataset, case_files, check_channels, find_dataset, labelled_cases
from fednnunet.node.dataset_json import DATASET_JSON, DatasetJson, read_raw_dataset_json
from fednnunet.node.splits import SPLITS, Splits

POOLED = "Pooled"

_POOLED = ("labels", "channel_names", "modality", "file_ending", "regions_class_order", "overwrite_image_reader_writer")
"""What nnU-Net reads in a ``dataset.json`` that is the same for all data that one network is to know."""


@dataclass(frozen=True)
class Source:
    """A user's dataset.

    Parameters
    ----------
    dataset
        Where it is.
    content
        Its ``dataset.json``.
    cases
        Its training cases.
    """

    dataset: SiteDataset
    content: DatasetJson
    cases: list[CaseFiles]

    @property
    def name(self) -> str:
        """Full name, for example ``Dataset511_HippoPlainA``."""
        return self.dataset.name

    @property
    def case_names(self) -> list[str]:
        """Identifiers of the training cases."""
        return [case.case for case in self.cases]

    @property
    def test_cases(self) -> list[str]:
        """Identifiers of the labelled test cases, in ``imagesTs`` and ``labelsTs``."""
        images, labels = self.dataset.raw / "imagesTs", self.dataset.raw / "labelsTs"
        cases, _ = labelled_cases(images, labels, self.content.file_ending)
        check_channels(cases, len(self.content.channels))
        return [case.case for case in cases]


def find_sources(ids: Sequence[str]) -> list[Source]:
    """Return the datasets that a user has named by id or name.

    Raises
    ------
    FednnUNetError
        If one is not there, is named twice, or has no training cases.
    """
    sources: list[Source] = []
    for word in ids:
        dataset = find_dataset(word)
        if dataset.name in [source.name for source in sources]:
            raise FednnUNetError(f"{dataset.name} is listed twice: list each dataset once.")
        content = read_raw_dataset_json(dataset)
        sources.append(
            Source(dataset, content, case_files(dataset, content.cases, content.file_ending, len(content.channels)))
        )
    return sources


def check_alike(sources: Sequence[Source]) -> None:
    """Refuse datasets that one network cannot know.

    Raises
    ------
    FednnUNetError
        Names the first two that differ, and in what.
    """
    first, *others = sources
    for other in others:
        for key, mine in (first.content.facts | {"reader": first.content.reader}).items():
            theirs = other.content.reader if key == "reader" else other.content.facts[key]
            if mine != theirs:
                raise FednnUNetError(
                    f"{other.name} has {key} {theirs}, {first.name} has {mine}: make them equal in both {DATASET_JSON}."
                )


def free_id(used: Sequence[int]) -> int:
    """Return a dataset id that is not `used`: the highest of three digits."""
    return next(number for number in range(999, 0, -1) if number not in used)


def link_dataset(source: Source, folder: Path, splits: Splits | None, held_out: Sequence[str] | None = None) -> None:
    """Make a raw dataset of links to a user's, with a split of its own; it replaces the one that is there.

    Parameters
    ----------
    source
        The user's dataset, which is only read.
    folder
        The new dataset's folder.
    splits
        Its folds, if it has any.
    held_out
        Training cases that are to be the test cases; by default, those in ``imagesTs`` are.

    Raises
    ------
    FednnUNetError
        If a test case's file has another ending than ``file_ending``, which only the key ``dataset`` allows.
    """
    own = {DATASET_JSON, SPLITS} | ({"imagesTs", "labelsTs"} if held_out is not None else set())
    with _new_folder(folder) as temporary:
        for entry in sorted(source.dataset.raw.iterdir()):
            if entry.name not in own:
                (temporary / entry.name).symlink_to(entry.absolute())
        content = dict(source.content.content)
        if held_out is not None:
            tested = [case for case in source.cases if case.case in held_out]
            _check_endings(tested, source.content.file_ending)
            _link_cases(tested, temporary / "imagesTs", temporary / "labelsTs", source.content.file_ending)
        if "dataset" in content:  # paths there may lead out of the folder, so they become absolute
            content["dataset"] = _listed({case.case: case for case in source.cases})
        _write(content, temporary / DATASET_JSON)
        if splits is not None:
            _write(splits, temporary / SPLITS)


def pool(sources: Sequence[Source], splits: Mapping[str, Splits | None], folder: Path) -> None:
    """Make one raw dataset of all cases, named ``SITE_CASE``; it replaces the one that is there.

    Its ``dataset.json`` lists the users' files where they are, so that a reader finds beside them what it needs.

    Parameters
    ----------
    sources
        The sites' datasets.
    splits
        The folds of each, by name of the dataset.
    folder
        The new dataset's folder.
    """
    with _new_folder(folder) as temporary:
        first = sources[0].content.content
        cases = {pooled_name(source.name, case.case): case for source in sources for case in source.cases}
        content = {key: first[key] for key in _POOLED if key in first}
        content |= {"numTraining": len(cases), "dataset": _listed(cases)}
        _write(content, temporary / DATASET_JSON)
        pooled = union({source.name: _renamed(source.name, splits[source.name]) for source in sources})
        if pooled is not None:
            _write(pooled, temporary / SPLITS)


def link_test_cases(sites: Mapping[str, Path], folder: Path) -> None:
    """Make a folder of links to the test cases of datasets, named ``SITE_CASE``; it replaces the one that is there.

    Parameters
    ----------
    sites
        The raw dataset of each, by name.
    folder
        Gets ``imagesTs`` and ``labelsTs``.
    """
    with _new_folder(folder) as temporary:
        for name in ("imagesTs", "labelsTs"):
            (temporary / name).mkdir()
            for site, raw in sites.items():
                for entry in sorted((raw / name).iterdir()) if (raw / name).is_dir() else ():
                    (temporary / name / pooled_name(site, entry.name)).symlink_to(entry.absolute())


def pooled_name(site: str, case: str) -> str:
    """Return the name of a site's case beside those of other sites; unique, because ids of datasets are."""
    return f"{site}_{case}"


def _renamed(site: str, splits: Splits | None) -> Splits | None:
    if splits is None:
        return None
    return [{part: [pooled_name(site, case) for case in cases] for part, cases in fold.items()} for fold in splits]


@contextlib.contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Give a folder to fill, which takes the place of `folder` when it is complete."""
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    yield temporary
    shutil.rmtree(folder, ignore_errors=True)
    temporary.rename(folder)


def _listed(cases: Mapping[str, CaseFiles]) -> dict[str, dict[str, Any]]:
    """Return what a ``dataset.json`` lists of cases, under these names."""
    return {
        name: {
            "images": [os.path.abspath(path) for path in case.images],
            "label": os.path.abspath(case.segmentation),
        }
        for name, case in cases.items()
    }


def _check_endings(cases: Sequence[CaseFiles], ending: str) -> None:
    for case in cases:
        for path in (*case.images, case.segmentation):
            if not path.lower().endswith(ending.lower()):
                raise FednnUNetError(
                    f"{path} is a test case, but does not end with the file_ending {ending} of {DATASET_JSON}: "
                    "convert it, or test with imagesTs."
                )


def _link_cases(cases: Sequence[CaseFiles], images: Path, labels: Path, ending: str) -> None:
    """Fill two new folders with links to all files of cases, named as nnU-Net wants."""
    images.mkdir()
    labels.mkdir()
    for case in cases:
        of_images, of_segmentation = case.stems(ending)
        named = {stem: images / case.case for _, stem in of_images[:1]}
        for channel, (image, (stem, _)) in enumerate(zip(case.images, of_images, strict=True)):
            named[stem] = images / f"{case.case}_{channel:04d}"
            Path(f"{named[stem]}{ending}").symlink_to(os.path.abspath(image))
        (labels / f"{case.case}{ending}").symlink_to(os.path.abspath(case.segmentation))
        _link_companions(case, named)
        _link_companions(case, {of_segmentation: labels / case.case})


def _link_companions(case: CaseFiles, named: Mapping[str, Path]) -> None:
    """Link what stands beside files whose names begin in one way beside links whose names begin in another way."""
    for path in case.companions:
        stem = max((stem for stem in named if path.startswith(f"{stem}.")), key=len, default=None)
        if stem is not None:
            Path(f"{named[stem]}{path.removeprefix(stem)}").symlink_to(os.path.abspath(path))


def _write(content: Any, path: Path) -> None:
    save_json(content, str(path), sort_keys=False)
