"""A site's measurements of its cases, and its answers; the measurements themselves never leave the site."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fednnunet.boxes import bounding_box
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import DIGIT_BITS, Distribution
from fednnunet.fingerprint.keys import key_bits
from fednnunet.fingerprint.moments import Moments
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity
from fednnunet.fingerprint.sampling import generator, sample_counts


@dataclass(frozen=True, eq=False)
class CaseMeasurement:
    """The measurements of one case by nnU-Net's extractor (``DatasetFingerprintExtractor.analyze_case``).

    Attributes
    ----------
    spacing
        Shape ``(3,)``, float64, mm.
    shape
        Shape ``(3,)``, uint32, voxels after cropping to the nonzero region.
    relative_size
        The part of the image's voxels that is left after cropping.
    samples
        The sampled foreground voxels of each channel.
    """

    spacing: np.ndarray
    shape: np.ndarray
    relative_size: float
    samples: tuple[Distribution, ...]


def measure_case(
    images: np.ndarray, segmentation: np.ndarray, spacing: Sequence[float], samples: int
) -> CaseMeasurement:
    """Measure one case.

    Parameters
    ----------
    images
        Shape ``(channels, z, y, x)``, float32, finite.
    segmentation
        Shape ``(1, z, y, x)``; foreground is what is above 0.
    spacing
        Three numbers, mm.
    samples
        Foreground voxels to sample, see `samples_per_case`.
    """
    box = _nonzero_box(images)
    foreground = segmentation[0][box] > 0
    shape = np.array(foreground.shape, np.uint32)
    return CaseMeasurement(
        spacing=np.array([float(number) for number in spacing], np.float64),
        shape=shape,
        relative_size=float(foreground.size / images[0].size),
        samples=tuple(_sample([image[box][foreground] for image in images], samples)),
    )


def _nonzero_box(images: np.ndarray) -> tuple[slice, ...]:
    """Return the smallest box around all voxels that are not zero in every channel; the whole image if all are."""
    nonzero = np.zeros(images.shape[1:], bool)
    for image in images:
        nonzero |= image != 0
    return bounding_box(nonzero)


def _sample(foreground: Iterable[np.ndarray], samples: int) -> Iterable[Distribution]:
    random = generator()
    for voxels in foreground:
        if len(voxels) == 0:
            yield Distribution.empty("float32")
            continue
        counts = sample_counts(len(voxels), samples, random)
        drawn = counts > 0
        yield Distribution.of(voxels[drawn], counts[drawn])


@dataclass(frozen=True, eq=False)
class SiteMeasurement:
    """A site's measurements of all of its cases.

    Attributes
    ----------
    spacings
        Shape ``(cases, 3)``, float64, mm.
    shapes
        Shape ``(cases, 3)``, uint32, voxels.
    relative_sizes
        Shape ``(cases,)``, float64.
    samples
        The sampled voxels of all cases, per channel.
    """

    spacings: np.ndarray
    shapes: np.ndarray
    relative_sizes: np.ndarray
    samples: tuple[Distribution, ...]
    _distributions: dict[Quantity, Distribution] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, cases: Iterable[CaseMeasurement]) -> "SiteMeasurement":
        """Return the measurement of all of `cases`, at least one; their samples are united as they come."""
        spacings, shapes, relative_sizes = [], [], []
        unions: list[_GrowingUnion] = []
        for case in cases:
            spacings.append(case.spacing)
            shapes.append(case.shape)
            relative_sizes.append(case.relative_size)
            unions = unions or [_GrowingUnion() for _ in case.samples]
            for union, samples in zip(unions, case.samples, strict=True):
                union.add(samples)
        return cls(
            np.stack(spacings), np.stack(shapes), np.array(relative_sizes), tuple(union.result() for union in unions)
        )

    @property
    def is_two_dimensional(self) -> bool:
        """Whether every case is a single slice, for which nnU-Net plans in 2D only."""
        return bool((self.shapes[:, 0] == 1).all())

    def answer(self, question: MomentsQuestion | DigitsQuestion) -> np.ndarray:
        """Return the answer to a question of the coordinator: int64, one dimension.

        Whether the protocol asks it now, `QuestionsDue` tells.

        Raises
        ------
        FednnUNetError
            If the question has no answer.
        """
        if isinstance(question, MomentsQuestion):
            return np.concatenate([Moments.of(samples).to_vector() for samples in self.samples])
        return np.concatenate([self._count(follow, question) for follow in question.follow])

    def _count(self, follow: Follow, question: DigitsQuestion) -> np.ndarray:
        distribution = self._distribution(follow.quantity, question)
        prefixes, length = follow.prefixes, key_bits(distribution.dtype)
        is_due = (
            follow.bits % DIGIT_BITS == 0
            and follow.bits < length
            and all(0 <= prefix < 1 << follow.bits for prefix in prefixes)
        )
        if not is_due:
            raise FednnUNetError(f"the coordinator asks something about {follow.quantity.name} that is not answered")
        counts: np.ndarray = distribution.count_digits(follow.bits, prefixes).ravel()
        return counts

    def _distribution(self, quantity: Quantity, question: DigitsQuestion) -> Distribution:
        name, index = quantity
        if name == "intensity":
            if not 0 <= index < len(self.samples):
                raise FednnUNetError(f"the coordinator asks for channel {index}, there are {len(self.samples)}")
            return self.samples[index]
        if not 0 <= index < 3:
            raise FednnUNetError(f"the coordinator asks for axis {index}, there are three")
        if name == "resampled_shape":
            return Distribution.of(self._resampled_shapes(question)[:, index])
        if quantity not in self._distributions:
            values: Mapping[str, np.ndarray] = {
                "spacing": self.spacings[:, index],
                "shape": self.shapes[:, index],
                "relative_size": self.relative_sizes,
            }
            self._distributions[quantity] = Distribution.of(values[name])
        return self._distributions[quantity]

    def _resampled_shapes(self, question: DigitsQuestion) -> np.ndarray:
        """Return the shapes that the cases would have with the target spacing (nnU-Net's ``compute_new_shape``)."""
        target = question.target_spacing
        if target is None or not all(0 < spacing < float("inf") for spacing in target):
            raise FednnUNetError("the coordinator asks for resampled shapes without a target spacing")
        shapes = np.rint(self.spacings / np.array(target) * self.shapes)
        bounded: np.ndarray = np.minimum(shapes, np.iinfo(np.uint32).max).astype(np.uint32)
        return bounded


class _GrowingUnion:
    """Unites distributions that come one by one, without keeping many of them."""

    def __init__(self) -> None:
        self._united: Distribution | None = None
        self._pending: list[Distribution] = []

    def add(self, distribution: Distribution) -> None:
        self._pending.append(distribution)
        united = 0 if self._united is None else len(self._united.keys)
        # by doubling, each number is sorted only a few times
        if sum(len(other.keys) for other in self._pending) > max(united, 1 << 20):
            self._united, self._pending = self.result(), []

    def result(self) -> Distribution:
        parts = ([] if self._united is None else [self._united]) + self._pending
        return parts[0] if len(parts) == 1 else Distribution.union(parts)
