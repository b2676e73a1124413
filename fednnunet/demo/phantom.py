"""Synthetic patients and the scanners that image them, in two or three dimensions.

A patient is a set of outlines in millimetres, without pixels; a scanner turns it into an image on its own grid, so the
same patient looks different at each hospital. All randomness comes from the generator passed in.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

ORGAN, LESION = 1, 2
LABELS = {"background": 0, "organ": ORGAN, "lesion": LESION}

AIR, CAPSULE, MUSCLE, FAT = 0.02, 0.3, 0.36, 0.85
"""Signals; organ, lesion and bowel lie between the capsule and about 1."""


class SmoothNoise:
    """A random field without pixels: a sum of plane waves, of mean 0 and standard deviation 1.

    Parameters
    ----------
    rng
        Where directions, wavelengths and phases come from.
    dimensions
        2 or 3.
    wavelengths
        Shortest and longest wavelength, in mm.
    """

    WAVES = 12

    def __init__(self, rng: np.random.Generator, dimensions: int, wavelengths: tuple[float, float]) -> None:
        directions = rng.normal(size=(self.WAVES, dimensions))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        self._wave_vectors = 2 * np.pi * directions / rng.uniform(*wavelengths, size=(self.WAVES, 1))
        self._phases = rng.uniform(0, 2 * np.pi, size=self.WAVES)

    def at(self, points: Array) -> Array:
        """Return the field at `points`, shape (dimensions, ...) in mm, as an array of shape (...)."""
        field = np.zeros(points.shape[1:])
        for wave_vector, phase in zip(self._wave_vectors, self._phases, strict=True):
            field += np.cos(np.tensordot(wave_vector, points, axes=1) + phase)
        return np.asarray(field * np.sqrt(2 / self.WAVES))


class Blob:
    """An ellipse (in 3D an ellipsoid) with an uneven outline, turned at random.

    Parameters
    ----------
    rng
        Where the rotation and the outline come from.
    centre
        In mm.
    radii
        Semi-axes in mm.
    unevenness
        Standard deviation of the outline, as a fraction of the radius.
    """

    def __init__(self, rng: np.random.Generator, centre: Array, radii: Array, unevenness: float) -> None:
        self.centre = centre
        self.radii = radii
        self._axes, _ = np.linalg.qr(rng.normal(size=(len(centre), len(centre))))
        size = float(radii.mean())
        self._outline = SmoothNoise(rng, len(centre), (1.5 * size, 4 * size))
        self._unevenness = unevenness

    def depth(self, points: Array) -> Array:
        """Return how deep inside each point lies, in mm (about: exact for a circle); negative outside."""
        offsets = points - self.centre.reshape(-1, *(1,) * (points.ndim - 1))
        scaled = np.tensordot(self._axes.T, offsets, axes=1) / self.radii.reshape(-1, *(1,) * (points.ndim - 1))
        distance = np.linalg.norm(scaled, axis=0) - self._unevenness * self._outline.at(points)
        return np.asarray((1 - distance) * self.radii.min())


@dataclass(frozen=True)
class Tissue:
    """A blob and its signal."""

    blob: Blob
    signal: float


class Patient:
    """A body with an organ, a lesion inside of it, and loops of bowel that look like both.

    A loop has a wall like the organ and a content like the lesion, so intensity alone tells neither apart: size and
    surroundings do.

    Parameters
    ----------
    rng
        Where the anatomy comes from.
    dimensions
        2 or 3.
    dark_lesion
        Whether the lesion is of the kind that is darker than the organ, not brighter.
    """

    ORGAN_RADII: ClassVar = {2: (17.0, 26.0), 3: (21.0, 30.0)}
    """In mm, by dimensions; volumes have coarser voxels, so their structures are larger."""
    LESION_RADII: ClassVar = {2: (0.4, 0.62), 3: (0.5, 0.7)}
    """In fractions of the organ's smallest radius, by dimensions."""

    def __init__(self, rng: np.random.Generator, dimensions: int, *, dark_lesion: bool) -> None:
        def radii(low: float, high: float) -> Array:
            return rng.uniform(low, high, size=dimensions)

        def unevenness() -> float:
            return rng.uniform(0.05, 0.12)

        self.body = Blob(rng, rng.normal(0, 1.5, size=dimensions), radii(50, 58), 0.03)
        self.fat_mm = rng.uniform(3, 8)
        self.texture = SmoothNoise(rng, dimensions, (6, 30))
        organ = Blob(rng, _inside_ball(rng, dimensions, 18), radii(*self.ORGAN_RADII[dimensions]), unevenness())
        self.organ = Tissue(organ, rng.uniform(0.5, 0.64))
        self.capsule_mm = rng.uniform(1.5, 3)
        lesion = Blob(
            rng,
            organ.centre + _inside_ball(rng, dimensions, 0.5) * organ.radii.min(),
            radii(*self.LESION_RADII[dimensions]) * organ.radii.min(),
            unevenness(),
        )
        self.lesion = Tissue(lesion, self.organ.signal + _contrast(rng, dark_lesion))
        self.bowel: list[Tissue] = []
        for _ in range(rng.integers(1, 5)):
            size, wall = radii(7, 11), rng.uniform(0.5, 0.64)
            centre = _inside_ball(rng, dimensions, 42)
            while organ.depth(centre) > -size.max():  # beside the organ, not in it
                centre = _inside_ball(rng, dimensions, 42)
            self.bowel.append(Tissue(Blob(rng, centre, size, 0.05), wall))
            if rng.random() < 0.6:
                content = wall + _contrast(rng, rng.random() < 0.5)
                self.bowel.append(Tissue(Blob(rng, centre, 0.55 * size, 0.05), content))

    def labels(self, points: Array) -> npt.NDArray[np.uint8]:
        """Return the label of each of `points`, shape (dimensions, ...) in mm; the lesion never leaves the organ."""
        organ = self.organ.blob.depth(points) > 0
        lesion = organ & (self.lesion.blob.depth(points) > 0)
        return np.where(lesion, LESION, np.where(organ, ORGAN, 0)).astype(np.uint8)

    def signal(self, points: Array, blur: float) -> Array:
        """Return the tissue's signal at `points`, between 0 and about 1.

        Parameters
        ----------
        points
            Shape (dimensions, ...), in mm.
        blur
            Width of the transition from one tissue to the next, in mm.
        """
        depth = self.body.depth(points)
        signal = np.full(points.shape[1:], AIR)
        signal = _blend(signal, FAT, depth, blur)
        signal = _blend(signal, MUSCLE, depth - self.fat_mm, blur)
        for tissue in self.bowel:
            # bowel ends at the fat under the skin
            signal = _blend(signal, tissue.signal, np.minimum(tissue.blob.depth(points), depth - self.fat_mm - 1), blur)
        organ_depth = self.organ.blob.depth(points)
        signal = _blend(signal, CAPSULE, organ_depth + self.capsule_mm, blur)
        signal = _blend(signal, self.organ.signal, organ_depth, blur)
        signal = _blend(signal, self.lesion.signal, np.minimum(self.lesion.blob.depth(points), organ_depth), blur)
        return np.maximum(signal * (1 + 0.05 * self.texture.at(points)), AIR / 2)


@dataclass(frozen=True)
class Scanner:
    """How a scanner shows tissue.

    Parameters
    ----------
    gain, offset
        The number for the brightest tissue, and for none.
    contrast
        Exponent of the signal: below 1 the dark tissues come out brighter, above 1 darker.
    bias
        Standard deviation of the coil's slowly varying sensitivity, as a fraction.
    noise
        Standard deviation of the noise, as a fraction of the gain.
    blur
        Width of an edge, in mm.
    """

    gain: float
    offset: float
    contrast: float
    bias: float
    noise: float
    blur: float

    def scan(self, patient: Patient, points: Array, rng: np.random.Generator) -> npt.NDArray[np.int16]:
        """Return the image of `patient` at `points`, shape (dimensions, ...) in mm.

        No two scans are alike: gain, contrast and the coil's sensitivity vary a little from one to the next.
        """
        gain = self.gain * rng.uniform(0.85, 1.15)
        contrast = self.contrast * rng.uniform(0.85, 1.15)
        sensitivity = 1 + self.bias * SmoothNoise(rng, len(points), (100, 250)).at(points)
        signal = patient.signal(points, self.blur) ** contrast * np.maximum(sensitivity, 0.2)
        # the magnitude of a complex signal with noise in both parts, as in MRI: never negative, not zero in air
        real, imaginary = self.noise * rng.normal(size=(2, *signal.shape))
        magnitude = np.hypot(signal + real, imaginary)
        return np.asarray(np.rint(self.offset + gain * magnitude).clip(0, 32767), dtype=np.int16)


def grid(size: Sequence[int], spacing: Sequence[float]) -> Array:
    """Return the voxel centres of an image, in mm from its middle.

    Parameters
    ----------
    size
        Voxels per axis.
    spacing
        Distance of neighbouring voxels per axis, in mm.

    Returns
    -------
    Array
        Shape (axes, size of each axis ...).
    """
    axes = [(np.arange(n) - (n - 1) / 2) * step for n, step in zip(size, spacing, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"))


def _contrast(rng: np.random.Generator, dark: bool) -> float:
    """Return how much more signal a lesion has than its surroundings."""
    return -rng.uniform(0.22, 0.3) if dark else rng.uniform(0.24, 0.34)


def _inside_ball(rng: np.random.Generator, dimensions: int, radius: float) -> Array:
    """Return a random point at most `radius` from the origin, evenly distributed."""
    direction = rng.normal(size=dimensions)
    return np.asarray(direction / np.linalg.norm(direction) * radius * rng.random() ** (1 / dimensions))


def _blend(signal: Array, inside: float, depth: Array, blur: float) -> Array:
    """Return `signal` outside and `inside` where `depth` is positive, with a transition of width `blur` (mm)."""
    share = 0.5 * (1 + np.tanh(depth / blur))
    return signal + share * (inside - signal)
