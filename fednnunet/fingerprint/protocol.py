"""FFE, federated fingerprint extraction: the fingerprint of the pooled data, from sums of integers over sites.

Each protocol is a generator: it yields questions, receives for each the sum of the sites' answers, and returns the
fingerprint. It is independent of the transport.

Skorupko et al. 2025 introduced FFE with means over sites of each site's statistics. Here the statistics equal those of
nnU-Net's ``DatasetFingerprintExtractor`` on the pooled data, to the last bit, except for mean and standard deviation,
which nnU-Net sums in float32 and which are exact here.
"""

from collections.abc import Callable, Generator, Sequence

import numpy as np

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments
from fednnunet.fingerprint.pseudo_cases import PSEUDO_CASES, Axis, pseudo_cases
from fednnunet.fingerprint.quantiles import interpolate, ranks
from fednnunet.fingerprint.questions import DigitsQuestion, MomentsQuestion, Quantity
from fednnunet.fingerprint.selection import OrderStatistics, Wanted, select

Protocol = Generator[MomentsQuestion | DigitsQuestion, np.ndarray, Fingerprint]
TargetSpacing = Callable[[Fingerprint], np.ndarray]
"""The planner's ``determine_fullres_target_spacing``, as a function of the fingerprint; shape ``(3,)``, mm."""

AXES = range(3)
_INTENSITY_PERCENTILES = (0.5, 50.0, 99.5)
_LOW_PERCENTILE = 10.0
MOST_INTENSITY_RANKS = 2 + 2 * len(_INTENSITY_PERCENTILES)
"""Order statistics of a channel that are looked for: smallest, largest, and two for each percentile."""

SPACINGS = tuple(Quantity("spacing", axis) for axis in AXES)
SHAPES = tuple(Quantity("shape", axis) for axis in AXES)
RESAMPLED_SHAPES = tuple(Quantity("resampled_shape", axis) for axis in AXES)
RELATIVE_SIZE = Quantity("relative_size", 0)
GEOMETRY = (*SPACINGS, *SHAPES, RELATIVE_SIZE)
"""Of which the exact fingerprint has medians."""


def exact_fingerprint(cases: int, channels: int, samples: int, target_spacing: TargetSpacing) -> Protocol:
    """Find a fingerprint for which nnU-Net's stock planners plan as for the pooled data, without data of single cases.

    Its spacings and shapes are those of `pseudo_cases`. With `target_spacing` the planner is asked what it would make
    of a fingerprint: first whether it looks at the 10th percentile of an axis at all, which is only then asked for.

    Parameters
    ----------
    cases
        Number of cases in the federation.
    channels
        Number of channels.
    samples
        Foreground voxels that are sampled from each case.
    target_spacing
        The planner's choice.

    Raises
    ------
    FednnUNetError
        If no site has foreground, or answers contradict each other.
    """
    moments = yield from _moments(channels)
    middle = Wanted(cases, middle_ranks(cases))
    found = yield from select({**_wanted_intensities(moments), **dict.fromkeys(GEOMETRY, middle)})
    intensities = _intensities(found, moments, cases * samples)
    relative_size = _relative_size(found)

    def choice(low_spacings: Sequence[float]) -> tuple[float, float, float]:
        """Return the planner's target spacing; it does not depend on resampled shapes, so any will do."""
        x, y, z = target_spacing(_medians_only(found, low_spacings, intensities, relative_size)).tolist()
        return (x, y, z)

    low_spacings = [_middle(found[spacing])[0] for spacing in SPACINGS]
    shrunk = choice([0.9 * spacing for spacing in low_spacings])
    looked_at = [axis for axis in AXES if shrunk[axis] != choice(low_spacings)[axis]]
    if looked_at:
        lower = Wanted(cases, low_ranks(cases))
        low = yield from select({SPACINGS[axis]: lower for axis in looked_at})
        for axis in looked_at:
            low_spacings[axis] = interpolate(cases, _LOW_PERCENTILE, low[SPACINGS[axis]], "float64")
    target = choice(low_spacings)
    resampled = yield from select(dict.fromkeys(RESAMPLED_SHAPES, middle), target_spacing=target)
    axes = [
        pseudo_cases(
            Axis(
                spacings=_middle(found[SPACINGS[axis]]),
                shapes=_middle_voxels(found[SHAPES[axis]]),
                resampled=_middle_voxels(resampled[RESAMPLED_SHAPES[axis]]),
                low_spacing=low_spacings[axis],
                target=target[axis],
            )
        )
        for axis in AXES
    ]
    spacings, shapes = (np.stack(columns, axis=1) for columns in zip(*axes, strict=True))
    return Fingerprint(spacings, shapes, intensities, relative_size)


def shared_cases_fingerprint(spacings: np.ndarray, shapes: np.ndarray, channels: int, samples: int) -> Protocol:
    """Find the pooled fingerprint when every site has sent spacing and shape of each of its cases.

    Parameters
    ----------
    spacings
        Shape ``(cases, 3)``, float64, mm.
    shapes
        Shape ``(cases, 3)``, int64, voxels.
    channels
        Number of channels.
    samples
        Foreground voxels that are sampled from each case.

    Raises
    ------
    FednnUNetError
        If no site has foreground, or answers contradict each other.
    """
    cases = len(spacings)
    moments = yield from _moments(channels)
    found = yield from select({**_wanted_intensities(moments), RELATIVE_SIZE: Wanted(cases, middle_ranks(cases))})
    return Fingerprint(spacings, shapes, _intensities(found, moments, cases * samples), _relative_size(found))


def fingerprint_of(measurement: SiteMeasurement, samples: int) -> Fingerprint:
    """Return the fingerprint of a site that shares nothing: nnU-Net's own, of its cases alone.

    Raises
    ------
    FednnUNetError
        If the site has no foreground.
    """
    protocol = shared_cases_fingerprint(
        measurement.spacings, measurement.shapes.astype(np.int64), len(measurement.samples), samples
    )
    return run_protocol(protocol, [measurement])


def run_protocol(protocol: Protocol, measurements: Sequence[SiteMeasurement]) -> Fingerprint:
    """Run a protocol within this process."""
    try:
        question = next(protocol)
        while True:
            question = protocol.send(sum_of_answers([measurement.answer(question) for measurement in measurements]))
    except StopIteration as end:
        fingerprint: Fingerprint = end.value
        return fingerprint


def sum_of_answers(answers: Sequence[np.ndarray]) -> np.ndarray:
    """Return the sum over sites of their answers, the only thing that a protocol sees of them; int64, shape as each.

    Raises
    ------
    FednnUNetError
        If the answers have different lengths.
    """
    if len({answer.shape for answer in answers}) > 1:
        raise FednnUNetError("The sites' answers differ in length: check that all sites have the same channels.")
    total: np.ndarray = np.stack(answers).sum(axis=0, dtype=np.int64)
    return total


def intensity_of_channels(channels: int) -> list[Quantity]:
    """Return the intensity of each channel."""
    return [Quantity("intensity", channel) for channel in range(channels)]


def middle_ranks(cases: int) -> frozenset[int]:
    """Return the ranks between which the median lies: two, or one if the number of cases is odd."""
    return frozenset({(cases - 1) // 2, cases // 2})


def low_ranks(cases: int) -> frozenset[int]:
    """Return the ranks between which the 10th percentile lies."""
    return frozenset(ranks(cases, _LOW_PERCENTILE))


def _moments(channels: int) -> Generator[MomentsQuestion, np.ndarray, list[Moments]]:
    vector = yield MomentsQuestion()
    if vector.shape != (channels * VECTOR_LENGTH,):
        raise FednnUNetError(f"The sites' answers are not for {channels} channels: check that all images have them.")
    moments = [Moments.from_vector(part) for part in vector.reshape(channels, VECTOR_LENGTH)]
    if any(of_channel.number < 1 for of_channel in moments):
        raise FednnUNetError("No site has any foreground voxel: check labelsTr at the sites.")
    return moments


def _wanted_intensities(moments: Sequence[Moments]) -> dict[Quantity, Wanted]:
    wanted = {}
    for quantity, of_channel in zip(intensity_of_channels(len(moments)), moments, strict=True):
        extremes = {0, of_channel.number - 1}
        inner = {rank for percentile in _INTENSITY_PERCENTILES for rank in ranks(of_channel.number, percentile)}
        wanted[quantity] = Wanted(of_channel.number, frozenset(extremes | inner))
    return wanted


def _intensities(found: OrderStatistics, moments: Sequence[Moments], number_if_all_have_foreground: int) -> np.ndarray:
    """Return `Fingerprint.intensities`."""
    rows = []
    for quantity, of_channel in zip(intensity_of_channels(len(moments)), moments, strict=True):
        by_rank, number = found[quantity], of_channel.number
        # nnU-Net concatenates float32 arrays, but for a case without foreground an empty float64 one
        dtype = "float32" if number == number_if_all_have_foreground else "float64"
        low, median, high = (interpolate(number, percentile, by_rank, dtype) for percentile in _INTENSITY_PERCENTILES)
        extremes = float(by_rank[0]), float(by_rank[number - 1])
        rows.append([of_channel.mean, median, of_channel.std, *extremes, high, low])
    return np.array(rows, dtype=np.float64)


def _relative_size(found: OrderStatistics) -> float:
    return float(np.median(_middle(found[RELATIVE_SIZE])))


def _medians_only(
    found: OrderStatistics, low_spacings: Sequence[float], intensities: np.ndarray, relative_size: float
) -> Fingerprint:
    """Return a fingerprint with the federation's median spacings and shapes and the given 10th percentiles."""
    spacings, shapes = np.empty((PSEUDO_CASES, 3)), np.empty((PSEUDO_CASES, 3), np.int64)
    half = PSEUDO_CASES // 2
    for axis in AXES:
        middle = _middle(found[SPACINGS[axis]])
        spacings[:, axis] = [low_spacings[axis]] * (half - 1) + [*middle] + [middle[1]] * (half - 1)
        lower, upper = _middle_voxels(found[SHAPES[axis]])
        shapes[:, axis] = [lower] * half + [upper] * half
    return Fingerprint(spacings, shapes, intensities, relative_size)


def _middle(by_rank: dict[int, np.ndarray]) -> tuple[float, float]:
    """Return the numbers at the `middle_ranks`: two, equal if there is one rank only."""
    values = [float(by_rank[rank]) for rank in sorted(by_rank)]
    return values[0], values[-1]


def _middle_voxels(by_rank: dict[int, np.ndarray]) -> tuple[int, int]:
    """Return the result of `_middle` as integers."""
    lower, upper = _middle(by_rank)
    return int(lower), int(upper)
