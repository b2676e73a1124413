"""Constructs artificial cases that nnU-Net's planner cannot distinguish from the federation's.

Of spacings and shapes, the stock planner reads per axis: the median spacing, the median shape, the median of the shapes
resampled to the target spacing and, for one anisotropic axis, the 10th percentile of the spacings. The pseudo-cases
have exactly these. Their values lie beyond the medians on purpose, and reveal nothing about real images.
"""

import math
from dataclasses import dataclass

import numpy as np

from fednnunet.errors import FednnUNetError

PSEUDO_CASES = 22
"""An even number, and its 10th percentile lies between the third and the fourth value, which are made equal."""


@dataclass(frozen=True)
class Axis:
    """The planner's input for one axis; pairs are the two middle values, equal for an odd number of cases.

    Attributes
    ----------
    spacings
        Middle spacings, mm.
    shapes
        Middle shapes, voxels.
    resampled
        Middle resampled shapes, voxels, with respect to `target`.
    low_spacing
        10th percentile of the spacings, mm; from three cases on at most the lower of `spacings`.
    target
        Target spacing, mm.
    """

    spacings: tuple[float, float]
    shapes: tuple[int, int]
    resampled: tuple[int, int]
    low_spacing: float
    target: float


def pseudo_cases(axis: Axis) -> tuple[np.ndarray, np.ndarray]:
    """Return spacings (mm, float64) and shapes (voxels, int64) of `PSEUDO_CASES` cases along one axis.

    Each case but the fillers has the middle value of one statistic, and lies far out in the two others, as often below
    as above. At least half of the cases have at least one voxel of at least the median spacing, so no data have a
    median resampled shape below that of a single such voxel; that is what makes room for all of these cases.

    Raises
    ------
    FednnUNetError
        If no cases can have such statistics.
    """
    (spacing, spacing_above), (shape, shape_above) = axis.spacings, axis.shapes
    resampled, resampled_above = axis.resampled
    target, low = axis.target, axis.low_spacing
    # many voxels: enough for a resampled shape beyond the median, even with the lowest spacing
    many = max(shape_above, 2 * math.ceil((resampled_above + 1) * target / min(low, spacing_above)))
    huge = max(spacing_above, 2 * (resampled_above + 1) * target)
    tiny = min(low, target / (4 * shape))
    cases = [
        (spacing, 1),
        (spacing_above, many),
        (tiny, shape),
        (huge, shape_above),
        (max(resampled, 0.25) * target / many, many),
        (max(spacing_above, resampled_above * target), 1),
    ]
    for _ in range((PSEUDO_CASES - len(cases)) // 2):
        cases += [(low, 1), (huge, many)]
    spacings, shapes = np.array([case[0] for case in cases]), np.array([case[1] for case in cases])
    _check(axis, spacings, shapes)
    return spacings, shapes


def _check(axis: Axis, spacings: np.ndarray, shapes: np.ndarray) -> None:
    middle = slice(PSEUDO_CASES // 2 - 1, PSEUDO_CASES // 2 + 1)
    ordered = np.sort(spacings)
    resampled = np.sort(np.rint(spacings / axis.target * shapes))
    fits = (
        tuple(ordered[middle]) == axis.spacings
        and ordered[2] == ordered[3] == axis.low_spacing
        and tuple(np.sort(shapes)[middle]) == axis.shapes
        and tuple(resampled[middle]) == axis.resampled
    )
    if not fits:
        raise FednnUNetError("The sites' counts of spacings and shapes are impossible: a site has answered wrongly.")
