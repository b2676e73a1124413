"""Computes Dice, HD95, ASSD and NSD of each label or region of a case.

Surfaces and the distances between them are MONAI's (``monai.metrics.utils.get_edge_surface_distance``): the surface of
an object are its voxels that have a face in common with a voxel outside of it, and the distance from a surface voxel to
the other surface is that to the nearest of its voxels, between centres. What lies outside of the image counts as
background, so where an object touches the border of the image, its surface is there.

* neither truth nor prediction has the label: no value; the case does not count for the label, as in nnU-Net
* only one of them has it: Dice and NSD are 0, HD95 and ASSD are the length of the image's diagonal
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from fednnunet.boxes import bounding_box
from fednnunet.labels import Key, Labels, members, read_labels

MetricName = Literal["dice", "hd95", "assd", "nsd"]
"""Dice, 95th percentile of the Hausdorff distance (mm), average symmetric surface distance (mm), normalised surface
Dice."""
METRICS: tuple[MetricName, ...] = get_args(MetricName)
"""The metrics, in the order in which tables show them."""
DIGITS: Mapping[MetricName, int] = {"dice": 4, "hd95": 2, "assd": 2, "nsd": 4}
"""Decimals that tables show."""

_ROUNDING = 1e-6
"""MONAI's distances are float32: one that equals the tolerance may come out as a little more."""

Segmentation = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scores:
    """The metrics of one label of one case; ``None`` where there is no value.

    Attributes
    ----------
    dice
        2 |A ∩ B| / (|A| + |B|).
    hd95
        The larger one of the two directed 95th percentiles of the surface distances, mm.
    assd
        Mean of all surface distances in both directions, mm.
    nsd
        Share of surface voxels, of both surfaces, whose distance is not above the tolerance (Nikolov et al. 2021).
    """

    dice: float | None = None
    hd95: float | None = None
    assd: float | None = None
    nsd: float | None = None


def foreground(labels: Labels | Mapping[str, Any]) -> dict[str, Key]:
    """Return the labels or regions to score, by name: nnU-Net's ``foreground_labels`` or ``foreground_regions``.

    Parameters
    ----------
    labels
        As they were read, or as they stand in a ``dataset.json`` without regions.

    Raises
    ------
    FednnUNetError
        If nnU-Net cannot work with them.
    """
    return (labels if isinstance(labels, Labels) else read_labels({"labels": labels})).foreground


def score_case(
    truth: Segmentation,
    prediction: Segmentation,
    labels: Labels,
    spacing: Sequence[float],
    nsd_tolerance: float | None = None,
) -> dict[str, Scores]:
    """Return the metrics of each label or region of a case.

    Parameters
    ----------
    truth, prediction
        Integer label images of the same shape, ``(y, x)`` or ``(z, y, x)``; a first axis of length 1, which nnU-Net
        gives to 2D images, is left out.
    labels
        Those of the dataset. Voxels with the ignore label in the truth are left out: they count as background in both
        images.
    spacing
        Size of a voxel in mm, by axis of the images.
    nsd_tolerance
        Distance in mm up to which surfaces count as equal; without it there is no NSD.

    Raises
    ------
    ValueError
        If the shapes differ, or are not those of 2D or 3D images.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"the truth has shape {truth.shape}, the prediction {prediction.shape}")
    if truth.ndim == 3 and truth.shape[0] == 1:
        truth, prediction, spacing = truth[0], prediction[0], spacing[1:]
    if truth.ndim not in (2, 3) or len(spacing) != truth.ndim:
        raise ValueError(f"shape {truth.shape} with spacing {tuple(spacing)} is not that of a 2D or 3D image")
    counts = np.ones(truth.shape, bool) if labels.ignore is None else truth != labels.ignore
    return {
        name: score(_mask(truth, key) & counts, _mask(prediction, key) & counts, spacing, nsd_tolerance)
        for name, key in foreground(labels).items()
    }


def _mask(segmentation: Segmentation, key: Key) -> Mask:
    return np.isin(segmentation, members(key))


def score(truth: Mask, prediction: Mask, spacing: Sequence[float], nsd_tolerance: float | None = None) -> Scores:
    """Return the metrics of one object; see the module for surfaces, and for what is not there.

    Parameters
    ----------
    truth, prediction
        Where the object is, bool, of the same shape, 2D or 3D.
    spacing
        Size of a voxel in mm, by axis.
    nsd_tolerance
        See `score_case`.
    """
    overlap, has_nsd = dice(truth, prediction), nsd_tolerance is not None
    if overlap is None:
        return Scores()
    if not truth.any() or not prediction.any():
        diagonal = float(np.linalg.norm(np.multiply(truth.shape, spacing)))
        return Scores(0.0, diagonal, diagonal, 0.0 if has_nsd else None)
    to_truth, to_prediction = _surface_distances(truth, prediction, spacing)
    both = np.concatenate([to_truth, to_prediction])
    return Scores(
        dice=overlap,
        hd95=float(max(np.percentile(distances, 95) for distances in (to_truth, to_prediction))),
        assd=float(both.mean()),
        nsd=float((both <= nsd_tolerance * (1 + _ROUNDING)).mean()) if nsd_tolerance is not None else None,
    )


def dice(truth: Mask, prediction: Mask) -> float | None:
    """Return the Dice coefficient 2 |A ∩ B| / (|A| + |B|) of two objects, ``None`` if both are empty.

    Parameters
    ----------
    truth, prediction
        Where the object is, bool, of the same shape.
    """
    total = int(truth.sum()) + int(prediction.sum())
    return 2 * int((truth & prediction).sum()) / total if total else None


def _surface_distances(
    truth: Mask, prediction: Mask, spacing: Sequence[float]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return the distances in mm of the prediction's surface voxels to the truth's surface, and the other way round."""
    import torch  # these two take seconds
    from monai.metrics.utils import get_edge_surface_distance

    box = bounding_box(truth | prediction)
    # MONAI's erosion takes what is outside of an image for background; a margin makes that visible
    predicted, true = (torch.from_numpy(np.pad(mask[box], 1)) for mask in (prediction, truth))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI 1.6 warns of a flag that it gives to itself
        _, distances, _ = get_edge_surface_distance(predicted, true, spacing=list(spacing), symmetric=True)
    to_truth, to_prediction = (np.asarray(part, np.float64) for part in distances)
    return to_truth, to_prediction
