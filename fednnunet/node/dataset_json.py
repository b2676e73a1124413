"""Reads ``dataset.json``, and checks everything that nnU-Net and a federation need from it."""

import contextlib
import difflib
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fednnunet.errors import FednnUNetError
from fednnunet.files import read_json_object
from fednnunet.labels import Labels, check_name, read_labels
from fednnunet.node.dataset import SiteDataset
from fednnunet.wording import counted

DATASET_JSON = "dataset.json"

_ADVICE = "follow nnU-Net's documentation of the dataset format"
_OVERWRITE_READER = "overwrite_image_reader_writer"


@dataclass(frozen=True)
class DatasetJson:
    """Contents of a ``dataset.json``.

    Attributes
    ----------
    path
        The file.
    content
        All of it, as it stands there.
    labels
        Names, numbers and regions.
    channels
        Name of each channel, by its number as text: ``"0"``, ``"1"`` …
    file_ending
        Of images and segmentations, with its dot.
    reader
        nnU-Net's reader class that it names, if it does.
    """

    path: Path
    content: Mapping[str, Any]
    labels: Labels
    channels: Mapping[str, str]
    file_ending: str
    reader: str | None

    @property
    def cases(self) -> Mapping[str, Mapping[str, Any]] | None:
        """The files of each case (``images``, ``label``), where they are listed in it."""
        return self.content.get("dataset")

    def check_number_of_cases(self, found: int) -> None:
        """Refuse a ``numTraining`` that is not the number of cases: the planner caps the batch size by it.

        Raises
        ------
        FednnUNetError
            Tells both numbers.
        """
        told = self.content.get("numTraining")
        if told != found or type(told) is not int:
            where = "lists" if self.cases is not None else "stands beside"
            said = "has no numTraining" if told is None else f"says numTraining = {told!r}"
            cases = counted(found, "training case")
            raise FednnUNetError(f'{self.path} {where} {cases}, but {said}: write "numTraining": {found}.')

    @property
    def facts(self) -> dict[str, Any]:
        """Properties that two datasets must share for one network."""
        return {
            "labels": self.labels.to_json(),
            "regions_class_order": self.labels.regions_class_order and list(self.labels.regions_class_order),
            "channels": dict(self.channels),
            "file_ending": self.file_ending,
        }


def read_raw_dataset_json(dataset: SiteDataset) -> DatasetJson:
    """Return the ``dataset.json`` of a site's raw data; see `read_dataset_json`."""
    return read_dataset_json(dataset.raw / DATASET_JSON, "put the dataset there in nnU-Net's raw format")


def read_dataset_json(path: Path, remedy: str) -> DatasetJson:
    """Return a ``dataset.json``, if nnU-Net can work with it.

    Parameters
    ----------
    path
        The file.
    remedy
        What to do if there is none.

    Raises
    ------
    FednnUNetError
        Names the file, the key, and the remedy.
    """
    content = read_json_object(path, remedy)
    try:
        labels = read_labels(content)
        _check_cases(content)
        reader = _reader(content)
        return DatasetJson(path, content, labels, _channels(content), _ending(content, reader), reader)
    except FednnUNetError as error:
        raise FednnUNetError(f"{path} {error}.") from error


def image_reader(content: DatasetJson, example: str) -> str:
    """Return the class with which nnU-Net reads images (``determine_reader_writer_from_dataset_json``).

    Parameters
    ----------
    content
        The dataset's description.
    example
        One of its image files.

    Raises
    ------
    FednnUNetError
        If nnU-Net has none that can read it.
    """
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    narration = io.StringIO()  # nnU-Net prints the traceback of each reader that fails
    try:
        with contextlib.redirect_stdout(narration), contextlib.redirect_stderr(narration):
            reader = determine_reader_writer_from_dataset_json(dict(content.content), example, verbose=False)
    except Exception as error:
        raise FednnUNetError(
            f"nnU-Net has no reader for {example} (file_ending {content.file_ending} in {content.path}): see that the "
            "file is complete, convert the images, or name a reader with overwrite_image_reader_writer."
        ) from error
    return str(reader.__name__)


def _channels(content: Mapping[str, Any]) -> dict[str, str]:
    named = [key for key in ("channel_names", "modality") if key in content]
    if not named:
        raise FednnUNetError(f'has no "channel_names", such as {{"0": "MRI"}}: {_ADVICE}')
    channels = content[named[0]]
    if not isinstance(channels, dict) or not channels:
        raise FednnUNetError(f'has {channels!r} as "{named[0]}": name each channel by its number, {{"0": "MRI"}}')
    if list(channels) != [str(number) for number in range(len(channels))]:
        raise FednnUNetError(f'numbers its channels {", ".join(channels)}: name them "0", "1" and so on, in this order')
    for number, name in channels.items():
        if not isinstance(name, str) or not name:
            raise FednnUNetError(
                f'has {name!r} as name of channel {number}: name what it shows, as in "CT" or "MRI"; nnU-Net chooses '
                "by that how to normalize"
            )
        check_name("channel", name)
    if len(named) == 2 and content["modality"] != channels:
        raise FednnUNetError('has "channel_names" and another "modality": remove "modality"')
    return channels


def _ending(content: Mapping[str, Any], reader: str | None) -> str:
    ending = content.get("file_ending")
    if ending is None:
        raise FednnUNetError('has no "file_ending", such as ".nii.gz": name the ending of its images')
    if not isinstance(ending, str) or not ending.startswith(".") or len(ending) < 2 or "/" in ending:
        raise FednnUNetError(f'has {ending!r} as "file_ending": write it with its dot, as in ".nii.gz" or ".png"')
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES

    known = sorted({known for each in LIST_OF_IO_CLASSES for known in each.supported_file_endings})
    if reader is None and ending.lower() not in known:
        raise FednnUNetError(
            f'has "{ending}" as "file_ending", which nnU-Net does not read: convert the images to one of '
            f'{", ".join(known)}, or name a reader with "{_OVERWRITE_READER}"'
        )
    return ending


def _reader(content: Mapping[str, Any]) -> str | None:
    name = content.get(_OVERWRITE_READER)
    if name is None or name == "None":
        return None
    if not isinstance(name, str):
        raise FednnUNetError(f'has {name!r} as "{_OVERWRITE_READER}": name one of nnU-Net\'s reader classes')
    from nnunetv2.imageio.reader_writer_registry import LIST_OF_IO_CLASSES, recursive_find_reader_writer_by_name

    try:
        recursive_find_reader_writer_by_name(name)
    except Exception as error:  # nnU-Net imports modules in which users may have put readers of their own
        known = [reader.__name__ for reader in LIST_OF_IO_CLASSES]
        near = difflib.get_close_matches(name, known, 1) or [", ".join(known)]
        raise FednnUNetError(
            f'names the reader "{name}" as "{_OVERWRITE_READER}", which nnU-Net does not have: write {near[0]}, or '
            "leave it out"
        ) from error
    return name


def _check_cases(content: Mapping[str, Any]) -> None:
    """Refuse a list of cases that nnU-Net could not read (``get_filenames_of_train_images_and_targets``)."""
    if "dataset" not in content:
        return
    cases = content["dataset"]
    form = '{"case": {"images": ["FILE"], "label": "FILE"}}'
    if not isinstance(cases, dict):
        raise FednnUNetError(f'has a "dataset" that is not an object: list the cases as in {form}, or leave it out')
    for case, files in cases.items():
        if not case or "/" in case or "\\" in case or case.startswith("."):
            raise FednnUNetError(f'calls a case "{case}" in "dataset": give it a name that a file can have')
        images = files.get("images") if isinstance(files, dict) else None
        label = files.get("label") if isinstance(files, dict) else None
        if not isinstance(images, list) or not images or not all(isinstance(image, str) and image for image in images):
            raise FednnUNetError(f'has no images for the case "{case}" in "dataset": list its files as in {form}')
        if not isinstance(label, str) or not label:
            raise FednnUNetError(f'has no label for the case "{case}" in "dataset": name its file as in {form}')
