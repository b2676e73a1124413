"""One fingerprint from those of all sites (FFE, federated fingerprint extraction; Skorupko et al. 2025)."""

from collections.abc import Sequence

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import INTENSITY_FIELDS, Fingerprint

_COLUMN = {name: index for index, name in enumerate(INTENSITY_FIELDS)}


def merge(fingerprints: Sequence[Fingerprint]) -> Fingerprint:
    """Merge the fingerprints of all sites, in the given order.

    nnU-Net samples the same number of foreground voxels from each case, so a site counts by its number of cases.
    Exact with respect to the pooled data: shapes, spacings, minimum, maximum, mean, standard deviation.
    Approximate: median and percentiles of intensities and the relative size, which are means over sites weighted by
    cases.

    Raises
    ------
    FednnUNetError
        If there are no fingerprints, or their numbers of channels differ.
    """
    if not fingerprints:
        raise FednnUNetError("There are no fingerprints to merge.")
    if len({len(fingerprint.intensities) for fingerprint in fingerprints}) > 1:
        raise FednnUNetError("Fingerprints with different numbers of channels cannot be merged.")
    cases = np.array([fingerprint.cases for fingerprint in fingerprints], dtype=np.float64)
    by_site = np.stack([fingerprint.intensities for fingerprint in fingerprints])
    merged = np.average(by_site, axis=0, weights=cases)
    merged[:, _COLUMN["min"]] = by_site[..., _COLUMN["min"]].min(axis=0)
    merged[:, _COLUMN["max"]] = by_site[..., _COLUMN["max"]].max(axis=0)
    merged[:, _COLUMN["std"]] = _pooled_std(by_site[..., _COLUMN["mean"]], by_site[..., _COLUMN["std"]], cases)
    return Fingerprint(
        spacings=np.concatenate([fingerprint.spacings for fingerprint in fingerprints]),
        shapes=np.concatenate([fingerprint.shapes for fingerprint in fingerprints]),
        intensities=merged,
        relative_size=float(np.average([fingerprint.relative_size for fingerprint in fingerprints], weights=cases)),
    )


def _pooled_std(means: np.ndarray, stds: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the standard deviation of the union, from means and stds of the sites, both (sites, channels).

    Variance of the union = mean of the variances + variance of the means (law of total variance).
    """
    grand_mean = np.average(means, axis=0, weights=weights)
    within = np.average(stds**2, axis=0, weights=weights)
    between = np.average((means - grand_mean) ** 2, axis=0, weights=weights)
    pooled: np.ndarray = np.sqrt(within + between)
    return pooled
