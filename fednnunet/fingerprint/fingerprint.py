"""A dataset fingerprint as arrays, and as nnU-Net's ``dataset_fingerprint.json``."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fednnunet.errors import FednnUNetError

INTENSITY_FIELDS = ("mean", "median", "std", "min", "max", "percentile_99_5", "percentile_00_5")
"""Columns of `Fingerprint.intensities`, in the order in which nnU-Net writes them."""


@dataclass(frozen=True, eq=False)
class Fingerprint:
    """The fields that nnU-Net's planner reads (``DatasetFingerprintExtractor.run``).

    Attributes
    ----------
    spacings
        Shape ``(cases, 3)``, float64, mm.
    shapes
        Shape ``(cases, 3)``, int64, voxels after cropping to the nonzero region.
    intensities
        Shape ``(channels, 7)``, float64: statistics of foreground voxels, columns as in `INTENSITY_FIELDS`.
    relative_size
        Median over cases of the part of an image's voxels that is left after cropping.
    """

    spacings: np.ndarray
    shapes: np.ndarray
    intensities: np.ndarray
    relative_size: float

    def __post_init__(self) -> None:
        cases = len(self.spacings)
        expected = {"spacings": (cases, 3), "shapes": (cases, 3), "intensities": (len(self.intensities), 7)}
        for name, shape in expected.items():
            actual = getattr(self, name).shape
            if actual != shape:
                raise FednnUNetError(f"A fingerprint is malformed: {name} has shape {actual} instead of {shape}.")
        if cases == 0:
            raise FednnUNetError("A fingerprint needs at least one case.")

    @property
    def cases(self) -> int:
        """Number of cases."""
        return len(self.spacings)

    @classmethod
    def from_nnunet(cls, content: Mapping[str, Any]) -> "Fingerprint":
        """Return the fingerprint that nnU-Net wrote as JSON."""
        properties = content["foreground_intensity_properties_per_channel"]
        by_channel = [properties[key] for key in sorted(properties, key=int)]
        return cls(
            spacings=np.array([list(spacing) for spacing in content["spacings"]], dtype=np.float64),
            shapes=np.array([list(shape) for shape in content["shapes_after_crop"]], dtype=np.int64),
            intensities=np.array([[channel[field] for field in INTENSITY_FIELDS] for channel in by_channel]),
            relative_size=float(content["median_relative_size_after_cropping"]),
        )

    def to_nnunet(self) -> dict[str, Any]:
        """Return the content of nnU-Net's ``dataset_fingerprint.json``."""
        return {
            "spacings": self.spacings.tolist(),
            "shapes_after_crop": self.shapes.tolist(),
            "foreground_intensity_properties_per_channel": {
                str(channel): dict(zip(INTENSITY_FIELDS, values, strict=True))
                for channel, values in enumerate(self.intensities.tolist())
            },
            "median_relative_size_after_cropping": self.relative_size,
        }
