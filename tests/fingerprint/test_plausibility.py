"""What a site answers is held against what it has said before, so that nonsense is known for whose it is."""

import contextlib
from collections.abc import Callable

import numpy as np
import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.distribution import Distribution
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.moments import VECTOR_LENGTH, Moments
from fednnunet.fingerprint.plausibility import AnswersOfSite, check_cases
from fednnunet.fingerprint.protocol import exact_fingerprint, sum_of_answers
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity

SAMPLES = 50
CASES = 3
INTENSITY, SPACING = Quantity("intensity", 0), Quantity("spacing", 1)

Lie = Callable[[np.ndarray], np.ndarray]


def _site(seed: int, values: np.ndarray | None = None, spacing: float | None = None) -> SiteMeasurement:
    rng = np.random.default_rng(seed)
    voxels = rng.normal(0, 1000, CASES * SAMPLES).astype(np.float32) if values is None else values
    spacings = rng.uniform(0.1, 5, (CASES, 3)) if spacing is None else np.full((CASES, 3), spacing)
    return SiteMeasurement(
        spacings=spacings,
        shapes=rng.integers(1, 500, (CASES, 3)).astype(np.uint32),
        relative_sizes=rng.uniform(0.2, 1, CASES),
        samples=(Distribution.of(*np.unique(voxels, return_counts=True)),),
    )


@pytest.mark.parametrize(
    "values",
    [
        np.array([], np.float32),
        np.zeros(CASES * SAMPLES, np.float32),
        np.full(CASES * SAMPLES, np.finfo(np.float32).max, np.float32),
        np.array([-np.finfo(np.float32).max, np.finfo(np.float32).max, 1e-45, -0.0], np.float32),
    ],
    ids=["no foreground", "zeros", "largest", "extremes"],
)
def test_whatever_images_a_site_has_its_answers_are_taken(values: np.ndarray) -> None:
    sites = [_site(1), _site(2, values), _site(3)]
    checks = [AnswersOfSite(CASES, 1, SAMPLES) for _ in sites]
    protocol = exact_fingerprint(len(sites) * CASES, 1, SAMPLES, lambda fingerprint: np.median(fingerprint.spacings, 0))
    question, asked = next(protocol), 0
    with contextlib.suppress(StopIteration):
        while True:
            answers = [site.answer(question) for site in sites]
            for check, answer in zip(checks, answers, strict=True):
                check.check(question, answer)
            asked += 1
            question = protocol.send(sum_of_answers(answers))
    assert asked > 16


def _with(index: int, value: int) -> Lie:
    def lie(answer: np.ndarray) -> np.ndarray:
        changed = answer.copy()
        changed[index] = value
        return changed

    return lie


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda answer: answer[:-1], "1 channels"),
        (_with(0, CASES * SAMPLES + 1), "151 voxels, 150 are the most"),
        (_with(0, -1), "-1 voxels"),
        (_with(0, 0), "contradict each other"),
        (_with(VECTOR_LENGTH - 1, 1 << 62), "contradict each other"),
        (_with(VECTOR_LENGTH - 1, -1), "contradict each other"),
        (_with(10, 1 << 62), "contradict each other"),
        (_with(1, 1 << 40), "contradict each other"),
        (lambda answer: np.concatenate([answer[:11], np.zeros(19, np.int64)]), "contradict each other"),
    ],
)
def test_sums_of_intensities_that_no_voxels_have_are_refused(lie: Lie, why: str) -> None:
    answer = _site(1).answer(MomentsQuestion())
    AnswersOfSite(CASES, 1, SAMPLES).check(MomentsQuestion(), answer)
    with pytest.raises(FednnUNetError, match=why):
        AnswersOfSite(CASES, 1, SAMPLES).check(MomentsQuestion(), lie(answer))


def _digits(quantity: Quantity, bits: int, *prefixes: int) -> DigitsQuestion:
    return DigitsQuestion(follow=[Follow(quantity=quantity, bits=bits, prefixes=list(prefixes))])


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda answer: answer[:-1], "wrong length"),
        (lambda answer: answer - 1, "negative counts"),
        (lambda answer: answer * 10**9, "where it has 3"),
        (lambda answer: answer * 0, "0 values of spacing where it has 3"),
        (lambda answer: answer[::-1].copy(), "impossible values of spacing"),
    ],
)
def test_counts_over_cases_are_those_of_its_cases(lie: Lie, why: str) -> None:
    question = _digits(SPACING, 0, 0)
    answer = _site(1).answer(question)
    AnswersOfSite(CASES, 1, SAMPLES).check(question, answer)
    with pytest.raises(FednnUNetError, match=why):
        AnswersOfSite(CASES, 1, SAMPLES).check(question, lie(answer))


def test_counts_below_a_prefix_are_those_that_were_told_for_it() -> None:
    site, check = _site(1, spacing=1.5), AnswersOfSite(CASES, 1, SAMPLES)
    first = site.answer(_digits(SPACING, 0, 0))
    check.check(_digits(SPACING, 0, 0), first)
    digit = int(np.argmax(first))
    question = _digits(SPACING, 4, digit)
    with pytest.raises(FednnUNetError, match="counts 4 values of spacing where it has 3"):
        check.check(question, site.answer(question) + np.eye(16, dtype=np.int64)[0])
    check.check(question, site.answer(question))


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_no_voxel_is_infinite(value: float) -> None:
    moments = Moments.of(Distribution.of(np.ones(1, np.float32), np.array([150]))).to_vector()
    site = _site(1, np.full(CASES * SAMPLES, value, np.float32))
    check = AnswersOfSite(CASES, 1, SAMPLES)
    check.check(MomentsQuestion(), moments)

    def follow() -> None:
        prefix = 0
        for bits in range(0, 32, 4):
            question = _digits(INTENSITY, bits, prefix)
            answer = site.answer(question)
            check.check(question, answer)
            prefix = (prefix << 4) + int(np.argmax(answer))

    with pytest.raises(FednnUNetError, match="impossible values of intensity"):
        follow()


@pytest.mark.parametrize(("spacing", "shape"), [(1e-9, 10), (1e9, 10), (1.0, 0), (1.0, 1 << 30), (np.nan, 10)])
def test_cases_that_are_told_one_by_one_are_those_of_images(spacing: float, shape: int) -> None:
    check_cases(np.ones((2, 3)), np.full((2, 3), 7))
    with pytest.raises(FednnUNetError, match="impossible"):
        check_cases(np.array([[1, 1, 1], [1, spacing, 1]]), np.array([[7, 7, 7], [7, shape, 7]]))
