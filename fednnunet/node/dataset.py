"""A site's dataset: its folders and its cases."""

import difflib
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nnunetv2.utilities.dataset_name_id_conversion import find_candidate_datasets

from fednnunet.errors import CaseError, FednnUNetError

_FOLDERS_OF_DATASETS = ("nnUNet_raw", "nnUNet_preprocessed")


@dataclass(frozen=True)
class SiteDataset:
    """A dataset of nnU-Net, by name, with the folders that nnU-Net keeps for it."""

    name: str

    @property
    def id(self) -> int:
        """The number in the dataset's name."""
        return int(self.name[len("Dataset") :].split("_")[0])

    @property
    def raw(self) -> Path:
        """Folder with images, labels and ``dataset.json``."""
        return nnunet_folder("nnUNet_raw") / self.name

    @property
    def preprocessed(self) -> Path:
        """Folder with fingerprint, plans and preprocessed cases."""
        return nnunet_folder("nnUNet_preprocessed") / self.name


def nnunet_folder(variable: str) -> Path:
    """Return the folder that one of nnU-Net's environment variables names.

    Raises
    ------
    FednnUNetError
        If the variable is not set.
    """
    value = os.environ.get(variable)
    if not value:
        raise FednnUNetError(f"{variable} is not set: export {variable}=FOLDER, as nnU-Net's documentation describes.")
    return Path(value)


def find_dataset(id_or_name: str) -> SiteDataset:
    """Return the dataset that a user named by id (``511``) or by name (``Dataset511_HippoPlainA``).

    Raises
    ------
    FednnUNetError
        If there is none, or more than one with that id.
    """
    folders = {name: Path(os.environ[name]) for name in _FOLDERS_OF_DATASETS if os.environ.get(name)}
    if not folders:
        raise FednnUNetError("Neither nnUNet_raw nor nnUNet_preprocessed is set: export nnU-Net's folders.")
    where = " or ".join(f"{name}={folder}" for name, folder in folders.items())
    if id_or_name.isdecimal():
        names = [str(name) for name in find_candidate_datasets(int(id_or_name))]
        if len(names) > 1:
            raise FednnUNetError(f"Dataset id {id_or_name} is ambiguous ({', '.join(names)}): rename all but one.")
        if not names:
            raise FednnUNetError(
                f"No dataset with id {id_or_name} in {where}: check the id and nnU-Net's environment variables."
            )
        return SiteDataset(names[0])
    known = sorted({path.name for folder in folders.values() for path in folder.glob("Dataset[0-9]*_*")})
    if id_or_name in known:
        return SiteDataset(id_or_name)
    meant = Path(id_or_name).name.casefold()
    alike = [name for name in known if name.casefold() == meant] or difflib.get_close_matches(id_or_name, known, n=1)
    hint = f"did you mean {alike[0]}?" if alike else "give its id, such as 511, or its name, Dataset511_NAME."
    raise FednnUNetError(f"No dataset '{id_or_name}' in {where}: {hint}")


@dataclass(frozen=True)
class CaseFiles:
    """The files of a case.

    Attributes
    ----------
    case
        Identifier.
    images
        One for each channel, or one with all.
    segmentation
        The labels.
    companions
        What else is named like these and stands beside them, for a reader may take it into account: nnU-Net's
        ``Tiff3DIO`` finds spacings in ``CASE.json``, and other formats keep header and voxels apart.
    """

    case: str
    images: tuple[str, ...]
    segmentation: str
    companions: tuple[str, ...] = ()

    @property
    def spacing_files(self) -> tuple[str, ...]:
        """Where nnU-Net looks for voxel spacings beside images and segmentation (``Tiff3DIO``); not all must be there.

        What is cut off the first image's name to get there is as long as ``_0000.tif``, whatever the name is.
        """
        names = ((self.images[0], len("_0000")), (self.segmentation, 0))
        endings = [os.path.splitext(path)[1] for path, _ in names]
        return tuple(
            path[: -len(ending) - more] + ".json"
            for (path, more), ending in zip(names, endings, strict=True)
            if ending.lower() in {".tif", ".tiff"}
        )

    @property
    def files(self) -> tuple[str, ...]:
        """All files that belong to it."""
        return tuple(dict.fromkeys((*self.images, self.segmentation, *self.spacing_files, *self.companions)))

    def stems(self, ending: str) -> tuple[list[tuple[str, str]], str]:
        """Return the stems of a case's files, before a dot.

        Returns
        -------
        For each image its own name and, without the channel, that of all; the name of the segmentation.
        """
        images = [_stem(image, ending) for image in self.images]
        return [(stem, stem[: -len("_0000")]) for stem in images], _stem(self.segmentation, ending)


def case_files(dataset: SiteDataset, listed: Mapping[str, Any] | None, ending: str, channels: int) -> list[CaseFiles]:
    """Return the training cases, by identifier (nnU-Net's ``get_filenames_of_train_images_and_targets``).

    Parameters
    ----------
    dataset
        The dataset.
    listed
        Files of each case, where its ``dataset.json`` lists them: ``{CASE: {"images": [PATH], "label": PATH}}``.
    ending
        nnU-Net's ``file_ending``.
    channels
        How many it names.

    Raises
    ------
    CaseError
        If a case lacks files.
    FednnUNetError
        If files are named so that nnU-Net would take them for other cases than they are, or one is not there.
    """
    if listed is None:
        images = dataset.raw / "imagesTr"
        _check_names(images, ending)
        cases = _cases_in(images, dataset.raw / "labelsTr", ending)
    else:
        cases = [
            CaseFiles(
                case,
                tuple(_expanded(dataset.raw, image) for image in files["images"]),
                _expanded(dataset.raw, files["label"]),
            )
            for case, files in listed.items()
        ]
    missing = [path for case in cases for path in (*case.images, case.segmentation) if not os.path.isfile(path)]
    if missing:
        more = "" if len(missing) == 1 else f", nor {len(missing) - 1} other files of its cases"
        raise FednnUNetError(f"Site {dataset.name} has no {missing[0]}{more}: put it there, or remove the case.")
    check_channels(cases, channels)
    return _with_companions(cases, ending)


def check_channels(cases: Sequence[CaseFiles], channels: int) -> None:
    """Check that all cases have as many image files as there are channels, or all equally many with several in a file.

    Raises
    ------
    CaseError
        If a case has another number.
    """
    numbers = {len(case.images) for case in cases}
    if len(numbers) == 1 and max(numbers) <= channels:
        return  # only reading tells how many channels are in a file, as with colour photographs
    for case in cases:
        if len(case.images) != channels:
            problem = f"has {len(case.images)} of {channels} image files, one for each channel that dataset.json names"
            remedy = "complete it, or remove it" if len(case.images) < channels else "name all channels there"
            raise CaseError(case.case, problem, remedy, f"{case.images[0]} …")


def _with_companions(cases: Sequence[CaseFiles], ending: str) -> list[CaseFiles]:
    """Return the cases with accompanying files; of two cases, ``a`` and ``a.b``, ``a.b.json`` belongs to b."""
    own = {path for case in cases for path in (*case.images, case.segmentation)}
    stems = [_stems(case, ending) for case in cases]
    found: dict[str, list[str]] = {stem: [] for of_case in stems for stem in of_case}
    for folder in sorted({os.path.dirname(stem) for stem in found}):
        for name in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
            path = os.path.join(folder, name)
            stem = next((stem for stem in _beginnings(path) if stem in found), None)
            if stem is not None and path not in own:
                found[stem].append(path)
    return [
        replace(case, companions=tuple(path for stem in of_case for path in found[stem]))
        for case, of_case in zip(cases, stems, strict=True)
    ]


def _stem(path: str, ending: str) -> str:
    return path[: -len(ending)] if path.lower().endswith(ending.lower()) else os.path.splitext(path)[0]


def _stems(case: CaseFiles, ending: str) -> list[str]:
    images, segmentation = case.stems(ending)
    return list(dict.fromkeys([*(stem for both in images for stem in both), segmentation]))


def _beginnings(path: str) -> Iterable[str]:
    """Yield the part of a file's name before each dot, the longest first."""
    stem, dot, _ = path.rpartition(".")
    while dot and os.path.dirname(path) == os.path.dirname(stem):
        yield stem
        stem, dot, _ = stem.rpartition(".")


def _check_names(images: Path, ending: str) -> None:
    """Refuse images that nnU-Net does not find, or takes for another case than a person would."""
    names = sorted(os.listdir(images)) if images.is_dir() else []
    for name in names:
        if name.endswith(ending) and (name.startswith(".") or not _image_name(ending).fullmatch(name)):
            why = "is hidden" if name.startswith(".") else f"does not end with its channel, as in _0000{ending}"
            raise FednnUNetError(f"{images / name} {why}, but nnU-Net takes it for a case: rename it, or remove it.")
    others = [name for name in names if name.lower().endswith(ending.lower()) and not name.endswith(ending)]
    if others:
        raise FednnUNetError(
            f"{images / others[0]} does not end with the file_ending {ending} of dataset.json: rename it, or remove it."
        )


def labelled_cases(images: Path, labels: Path, ending: str) -> tuple[list[CaseFiles], int]:
    """Return the cases in a folder of images whose segmentation is in a folder of labels, and how many have none.

    Parameters
    ----------
    images, labels
        The folders, with the names that nnU-Net wants; if there is none, there are no cases.
    ending
        nnU-Net's ``file_ending``.
    """
    cases = _cases_in(images, labels, ending)
    labelled = [case for case in cases if os.path.isfile(case.segmentation)]
    return labelled, len(cases) - len(labelled)


def _cases_in(folder: Path, labels: Path, ending: str) -> list[CaseFiles]:
    pattern = _image_name(ending)
    images: dict[str, list[str]] = {}
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if match := pattern.fullmatch(name):
            images.setdefault(match[1], []).append(str(folder / name))
    return [CaseFiles(case, tuple(images[case]), str(labels / f"{case}{ending}")) for case in sorted(images)]


def _image_name(ending: str) -> re.Pattern[str]:
    return re.compile(rf"(.+)_\d{{4}}{re.escape(ending)}")


def _expanded(folder: Path, path: str) -> str:
    return str(folder / os.path.expandvars(path))
