"""Reads a case with nnU-Net's readers, and reports a faulty file by name.

Worker processes import this module, so it does not import torch.
"""

import contextlib
import io
import json
import logging
import math
import os
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from nnunetv2.imageio.base_reader_writer import BaseReaderWriter
from nnunetv2.imageio.tif_reader_writer import Tiff3DIO

from fednnunet.errors import CaseError
from fednnunet.node.cut_files import is_cut
from fednnunet.node.dataset import CaseFiles

logger = logging.getLogger(__name__)

_MOST_NAMED = 8
_WORDS_OF_A_KIND = 5
_remarks: set[str] = set()
"""Beginnings of the readers' messages in this process."""


class Volume(NamedTuple):
    """An image or segmentation as nnU-Net reads it.

    Attributes
    ----------
    array
        Shape ``(channels, z, y, x)``, where nnU-Net's readers give float32.
    spacing
        Size of a voxel by axis, in mm.
    """

    array: npt.NDArray[Any]
    spacing: tuple[float, ...]


def read_images(reader: BaseReaderWriter, case: CaseFiles, channels: int) -> Volume:
    """Return the image of a case.

    Parameters
    ----------
    reader
        nnU-Net's.
    case
        Its files.
    channels
        How many ``dataset.json`` names.

    Raises
    ------
    CaseError
        If a file cannot be read, or does not fit.
    """
    try:
        volume = _read(reader.read_images, case.images)
    except Exception as error:  # readers raise whatever they like
        raise _fault(reader, reader.read_images, case, case.images, error) from error
    if len(volume.spacing) != 3 or not all(math.isfinite(size) and size > 0 for size in volume.spacing):
        told = ", ".join(f"{size:g}" for size in volume.spacing)
        raise CaseError(case.case, f"has the voxel size {told} mm", "correct it to three sizes", _origin(case))
    if len(volume.array) != channels:
        raise CaseError(
            case.case, f"has {len(volume.array)} channels, dataset.json names {channels}", "make them equal"
        )
    return volume


def read_segmentation(reader: BaseReaderWriter, case: CaseFiles) -> Volume:
    """Return the segmentation of a case.

    Raises
    ------
    CaseError
        If its file cannot be read.
    """

    def read(paths: tuple[str, ...]) -> tuple[Any, Any]:
        array, properties = reader.read_seg(*paths)
        return array, properties

    try:
        return _read(read, (case.segmentation,))
    except Exception as error:  # as above
        raise _fault(reader, read, case, (case.segmentation,), error) from error


def unexpected_values(segmentation: npt.NDArray[Any], allowed: Collection[int]) -> list[float]:
    """Return the values of a segmentation that are none of the labels (nnU-Net's ``verify_labels``), sorted.

    Parameters
    ----------
    segmentation
        Of any shape and type.
    allowed
        The labels, from 0.
    """
    highest = max(allowed)
    known = np.zeros(highest + 1, bool)
    known[list(allowed)] = True
    found: set[float] = set()
    for part in segmentation.reshape(-1, *segmentation.shape[-2:]):  # slices stay in the processor's cache
        is_known = bool(part.min() >= 0 and part.max() <= highest)  # false for NaN
        if is_known:
            numbers = part.astype(np.min_scalar_type(highest))
            is_known = np.array_equal(numbers, part) and bool(known.all() or known[numbers].all())
        if not is_known:
            found.update(np.unique(part).tolist())
    return sorted((value for value in found if value not in allowed), key=lambda value: (math.isnan(value), value))


def check_segmentation(case: CaseFiles, segmentation: npt.NDArray[Any], allowed: Collection[int]) -> None:
    """Refuse values that are none of the labels: nnU-Net would take -1 for background, and fail on others, or not see.

    Raises
    ------
    CaseError
        Names the first of them, at the site only: what was put there by mistake may be an image.
    """
    values = unexpected_values(segmentation, allowed)
    if not values:
        return
    told = ", ".join(f"{value:g}" for value in values[:_MOST_NAMED]) + (", …" if len(values) > _MOST_NAMED else "")
    raise CaseError(
        case.case,
        f"has values in its segmentation that are not among the labels {', '.join(map(str, sorted(allowed)))}",
        "correct the segmentation, or the labels in dataset.json",
        f"{told} in {case.segmentation}",
    )


def _read(read: Callable[[tuple[str, ...]], tuple[Any, Any]], paths: tuple[str, ...]) -> Volume:
    """Read a case, and log each message of the reader only once."""
    remarks = io.StringIO()
    with contextlib.redirect_stdout(remarks):
        array, properties = read(paths)
    if any(map(is_cut, paths)):
        raise EOFError
    if any(isinstance(size, str) for size in properties["spacing"]):
        raise TypeError
    remark = remarks.getvalue().strip()
    kind = " ".join(remark.split()[:_WORDS_OF_A_KIND])
    if remark and kind not in _remarks:
        _remarks.add(kind)
        logger.warning("nnU-Net's reader says: %s", remark)
    return Volume(np.asarray(array), tuple(float(size) for size in properties["spacing"]))


def _fault(
    reader: BaseReaderWriter,
    read: Callable[[tuple[str, ...]], Any],
    case: CaseFiles,
    paths: tuple[str, ...],
    error: Exception,
) -> CaseError:
    """Say which of the files that could not be read is at fault, and why."""
    for path in case.spacing_files if isinstance(reader, Tiff3DIO) else ():
        if os.path.isfile(path) and not _has_spacing(path):
            problem = "has a spacing file that nnU-Net cannot read"
            return CaseError(case.case, problem, 'write {"spacing": [Z, Y, X]} there, in mm, or remove it', path)
    for path in paths:
        if os.path.isfile(path) and os.path.getsize(path) == 0:
            return CaseError(case.case, "has an empty file", "restore or remove it", path)
        if is_cut(path):
            return CaseError(case.case, "has a truncated file", "restore or remove it", path)
    damaged = next((path for path in paths if len(paths) == 1 or not _is_readable(read, path)), None)
    if damaged is None:
        problem = f"has images of different shapes or voxel sizes ({type(error).__name__})"
        return CaseError(case.case, problem, "make the channels alike", f"{paths[0]} …")
    return CaseError(case.case, f"cannot be read ({type(error).__name__})", "repair or remove it", damaged)


def _is_readable(read: Callable[[tuple[str, ...]], Any], path: str) -> bool:
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            read((path,))
    except Exception:  # as above
        return False
    return True


def _has_spacing(path: str) -> bool:
    try:
        with open(path, encoding="utf-8") as file:
            spacing = json.load(file)["spacing"]
        return len(spacing) == 3 and all(not isinstance(size, str) and 0 < size < math.inf for size in spacing)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _origin(case: CaseFiles) -> str:
    """Return the file that the voxel size of the image comes from."""
    beside = next(iter(case.spacing_files), "")
    return beside if os.path.isfile(beside) else case.images[0]
