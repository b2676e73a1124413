"""Samples the same foreground voxels as nnU-Net (``DatasetFingerprintExtractor.collect_foreground_intensities``)."""

import numpy as np

SAMPLES = 10e7
"""Voxels per channel that nnU-Net samples from a whole dataset (``num_foreground_voxels_for_intensitystats``)."""

_SEED = 1234
_CHUNK = 1 << 20


def samples_per_case(cases: int, samples: float = SAMPLES) -> int:
    """Return how many voxels are sampled from each case of a dataset, or federation, of `cases`."""
    return int(samples // cases)


def generator() -> np.random.RandomState:
    """Return the generator with which nnU-Net begins each case; its channels draw from it one after the other."""
    return np.random.RandomState(_SEED)


def sample_counts(voxels: int, samples: int, random: np.random.RandomState) -> np.ndarray:
    """Sample with replacement, as ``random.choice(voxels, samples)`` does, and count.

    Returns
    -------
    How often each voxel was drawn: shape ``(voxels,)``, uint32.
    """
    counts = np.zeros(voxels, np.uint32)
    chunk = max(_CHUNK, voxels)  # counting costs time for each voxel, drawn or not
    for start in range(0, samples, chunk):
        drawn = random.randint(0, voxels, size=min(chunk, samples - start))
        counts += np.bincount(drawn, minlength=voxels).astype(np.uint32)
    return counts
