"""What the protocol asks, and what it does with answers that cannot be true; `tests/test_exactness.py` compares it."""

from collections.abc import Sequence

import numpy as np
import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.protocol import exact_fingerprint, fingerprint_of, run_protocol
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity
from tests.pooled import Case, measure

SAMPLES = 50


def _site(seed: int, cases: int, *, channels: int = 1, foreground: bool = True) -> SiteMeasurement:
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(cases, channels, 4, 6, 6)).astype(np.float32)
    segmentation = np.full((1, 4, 6, 6), float(foreground), np.float32)
    return measure([Case(image, segmentation, (2.0, 1.0, 1.0 + seed / 10)) for image in images], SAMPLES)


def _median(fingerprint: Fingerprint) -> np.ndarray:
    return np.median(fingerprint.spacings, axis=0)


def test_the_low_percentile_is_asked_for_only_if_the_planner_looks_at_it() -> None:
    sites = [_site(0, 2), _site(1, 2)]
    for looks, questions in ((False, 1 + 16 + 8), (True, 1 + 16 + 16 + 8)):

        def target(fingerprint: Fingerprint, looks: bool = looks) -> np.ndarray:
            spacing = _median(fingerprint)
            if looks:
                spacing[0] = np.percentile(fingerprint.spacings[:, 0], 10)
            return spacing

        asked: list[MomentsQuestion | DigitsQuestion] = []
        witness = _Witness(sites[1], asked)
        run_protocol(exact_fingerprint(4, 1, SAMPLES, target), [sites[0], witness])  # type: ignore[list-item]
        assert len(asked) == questions
        resampled = [question for question in asked if isinstance(question, DigitsQuestion) and question.target_spacing]
        assert resampled == asked[-8:]


def test_a_site_alone_has_the_fingerprint_of_its_own_cases() -> None:
    site = _site(3, 3, channels=2)
    own = fingerprint_of(site, SAMPLES)
    np.testing.assert_array_equal(own.spacings, site.spacings)
    np.testing.assert_array_equal(own.shapes, site.shapes)
    for samples, row in zip(site.samples, own.intensities, strict=True):
        voxels = np.repeat(samples.values, samples.counts)
        low, median, high = np.percentile(voxels, np.array([0.5, 50, 99.5]))
        np.testing.assert_array_equal(row[[1, 3, 4, 5, 6]], [median, voxels.min(), voxels.max(), high, low])
        np.testing.assert_allclose(row[[0, 2]], [voxels.mean(dtype=float), voxels.std(dtype=float)], rtol=1e-12)


def test_without_any_foreground_there_is_no_fingerprint() -> None:
    sites = [_site(seed, 2, foreground=False) for seed in range(2)]
    with pytest.raises(FednnUNetError, match="No site has any foreground"):
        run_protocol(exact_fingerprint(4, 1, SAMPLES, _median), sites)


class _Witness:
    """A site that keeps what it was asked."""

    def __init__(self, site: SiteMeasurement, asked: list[MomentsQuestion | DigitsQuestion]) -> None:
        self._site, self._asked = site, asked

    def answer(self, question: MomentsQuestion | DigitsQuestion) -> np.ndarray:
        self._asked.append(question)
        return self._site.answer(question)


class _Liar:
    """A site that answers one question with something else."""

    def __init__(self, site: SiteMeasurement, at: int, lie: Sequence[int] | None) -> None:
        self._site, self._left, self._lie = site, at, lie

    def answer(self, question: MomentsQuestion | DigitsQuestion) -> np.ndarray:
        self._left -= 1
        truth = self._site.answer(question)
        if self._left != -1:
            return truth
        return -truth - 1 if self._lie is None else np.array(self._lie, np.int64)


@pytest.mark.parametrize(
    ("at", "lie", "what"),
    [
        (0, [1, 2], "differ in length"),
        (1, None, "not counts"),
        (3, [0] * 16, "differ in length"),
    ],
)
def test_answers_that_cannot_be_true_end_the_task(at: int, lie: list[int] | None, what: str) -> None:
    sites = [_site(0, 2), _Liar(_site(1, 2), at, lie)]
    with pytest.raises(FednnUNetError, match=what):
        run_protocol(exact_fingerprint(4, 1, SAMPLES, _median), sites)  # type: ignore[arg-type]


def test_counts_that_contradict_the_totals_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="count 4 values of spacing instead of 5"):
        run_protocol(exact_fingerprint(5, 1, SAMPLES, _median), [_site(0, 2), _site(1, 2)])


def test_channels_must_be_those_that_were_agreed() -> None:
    with pytest.raises(FednnUNetError, match="are not for 2 channels"):
        run_protocol(exact_fingerprint(2, 2, SAMPLES, _median), [_site(0, 2)])


@pytest.mark.parametrize(
    ("follow", "target"),
    [
        (Follow(quantity=Quantity("intensity", 1), bits=0, prefixes=[0]), None),
        (Follow(quantity=Quantity("spacing", 3), bits=0, prefixes=[0]), None),
        (Follow(quantity=Quantity("spacing", 0), bits=3, prefixes=[0]), None),
        (Follow(quantity=Quantity("spacing", 0), bits=64, prefixes=[0]), None),
        (Follow(quantity=Quantity("spacing", 0), bits=4, prefixes=[16]), None),
        (Follow(quantity=Quantity("resampled_shape", 0), bits=0, prefixes=[0]), None),
    ],
)
def test_a_site_refuses_what_has_no_answer(follow: Follow, target: tuple[float, float, float] | None) -> None:
    with pytest.raises(FednnUNetError, match="the coordinator asks"):
        _site(0, 1).answer(DigitsQuestion(follow=[follow], target_spacing=target))
