"""A node answers what the protocol asks, and nothing that it does not."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.due import Due, QuestionsDue, exact_questions, shared_cases_questions
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.protocol import (
    AXES,
    RESAMPLED_SHAPES,
    SPACINGS,
    exact_fingerprint,
    run_protocol,
    shared_cases_fingerprint,
)
from fednnunet.fingerprint.questions import DigitsQuestion, Follow, MomentsQuestion, Quantity
from tests.pooled import generate_federation, measure

SAMPLES = 50
Asked = MomentsQuestion | DigitsQuestion


class _Guarded:
    """A site that answers what is due, and keeps it."""

    def __init__(self, site: SiteMeasurement, due: Due) -> None:
        self._site, self._due = site, QuestionsDue(due)
        self.admitted: list[Asked] = []

    def answer(self, question: Asked) -> np.ndarray:
        self._due.admit(question)
        self.admitted.append(question)
        return self._site.answer(question)


def _run(seed: int, looked_at: frozenset[int], tells_cases: bool) -> tuple[list[_Guarded], int, int]:
    """Run a protocol with guarded sites; return them, and how many cases and channels there are."""
    measured = [measure(site, SAMPLES) for site in generate_federation(seed)]
    cases, channels = sum(len(site.shapes) for site in measured), len(measured[0].samples)
    if tells_cases:
        spacings = np.concatenate([site.spacings for site in measured])
        shapes = np.concatenate([site.shapes for site in measured]).astype(np.int64)
        protocol = shared_cases_fingerprint(spacings, shapes, channels, SAMPLES)
    else:

        def target(fingerprint: Fingerprint) -> np.ndarray:
            percentiles = [10 if axis in looked_at else 50 for axis in AXES]
            return np.array([np.percentile(fingerprint.spacings[:, axis], percentiles[axis]) for axis in AXES])

        protocol = exact_fingerprint(cases, channels, SAMPLES, target)
    questions = shared_cases_questions if tells_cases else exact_questions
    sites = [_Guarded(site, questions(cases, channels)) for site in measured]
    run_protocol(protocol, sites)  # type: ignore[arg-type]
    return sites, cases, channels


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.frozensets(st.sampled_from(AXES)), st.booleans())
def test_every_site_admits_all_questions_of_the_protocols(
    seed: int, looked_at: frozenset[int], tells_cases: bool
) -> None:
    sites, _, _ = _run(seed, looked_at, tells_cases)
    searches = 1 if tells_cases else 2 + bool(looked_at)
    for site in sites:
        assert len(site.admitted) == [1, 1 + 16, 1 + 16 + 8, 1 + 16 + 16 + 8][searches]


def test_the_federations_have_odd_and_even_numbers_of_cases_all_numbers_of_channels_and_slices() -> None:
    federations = [generate_federation(seed) for seed in range(60)]
    assert {sum(map(len, sites)) % 2 for sites in federations} == {0, 1}
    assert {len(sites[0][0].images) for sites in federations} == {1, 2, 3}
    assert {sites[0][0].images.shape[1] == 1 for sites in federations} == {False, True}


@cache
def _recorded(
    seed: int, looked_at: frozenset[int], tells_cases: bool
) -> tuple[list[Asked], Callable[[], QuestionsDue]]:
    """Return the questions of an honest run, and what makes guards for one more."""
    sites, cases, channels = _run(seed, looked_at, tells_cases)
    questions = shared_cases_questions if tells_cases else exact_questions
    return sites[0].admitted, lambda: QuestionsDue(questions(cases, channels))


def _odd_and_even() -> list[int]:
    by_rest = {sum(map(len, generate_federation(seed))) % 2: seed for seed in range(20)}
    return [by_rest[0], by_rest[1]]


RUNS = [
    (seed, looked_at, tells_cases)
    for seed in _odd_and_even()
    for looked_at, tells_cases in ((frozenset[int](), False), (frozenset({0, 2}), False), (frozenset[int](), True))
]


def _deviations(asked: list[Asked], at: int) -> Iterator[tuple[str, Asked]]:
    """Yield what a coordinator could ask instead of question `at`, with what is wrong about it."""
    due = asked[at]
    # which low spacings are looked for, if any, and what the target spacing is, no node knows before
    is_planners_choice = at > 1 and _first_bits(due) == 0
    for earlier in asked[: max(0, at - 1)]:
        yield "a question of before", earlier
    for later in asked[at + 1 :]:
        if not (is_planners_choice and _first_bits(later) == 0):
            yield "a question of later", later
    if not isinstance(due, DigitsQuestion):
        return
    if not (is_planners_choice and due.target_spacing):
        yield "a target", due.model_copy(update={"target_spacing": (1.0, 1.0, 0.123)})
    if due.target_spacing is not None:
        yield "no target", due.model_copy(update={"target_spacing": None})
    yield "a quantity twice", _with_follow(due, [*due.follow, due.follow[-1]])
    known = {
        follow.quantity for question in asked if isinstance(question, DigitsQuestion) for follow in question.follow
    }
    for quantity in {*known, Quantity("intensity", 3), Quantity("spacing", 3), Quantity("relative_size", 1)}:
        extra = Follow(quantity=quantity, bits=due.follow[0].bits, prefixes=due.follow[0].prefixes)
        yield "a quantity more", _with_follow(due, [*due.follow, extra])
        if quantity not in _names(due) and not (is_planners_choice and quantity in SPACINGS):
            yield "another quantity", _with_follow(due, [extra, *due.follow[1:]])
    if len(due.follow) > 1:
        yield "another order", _with_follow(due, due.follow[::-1])
        if not (is_planners_choice and due.target_spacing is None):
            yield "a quantity less", _with_follow(due, due.follow[1:])
    for index, follow in enumerate(due.follow):
        changes = [("other prefixes", {"prefixes": prefixes}) for prefixes in _wrong_prefixes(follow)]
        changes += [("other bits", {"bits": follow.bits + more}) for more in (-4, 1, 4)]  # type: ignore[dict-item]
        for what, change in changes:
            changed = follow.model_copy(update=change)
            yield what, _with_follow(due, [*due.follow[:index], changed, *due.follow[index + 1 :]])


def _first_bits(question: Asked) -> int | None:
    return question.follow[0].bits if isinstance(question, DigitsQuestion) else None


def _names(question: DigitsQuestion) -> list[Quantity]:
    return [follow.quantity for follow in question.follow]


def _with_follow(question: DigitsQuestion, follow: Sequence[Follow]) -> DigitsQuestion:
    return question.model_copy(update={"follow": list(follow)})


def _wrong_prefixes(follow: Follow) -> Iterator[list[int]]:
    prefixes, most = follow.prefixes, 8 if follow.quantity.name == "intensity" else 2
    yield [*prefixes, prefixes[-1]]
    yield [*prefixes[:-1], 1 << follow.bits]
    yield [-1, *prefixes[1:]]
    yield []
    if len(prefixes) > 1:
        yield prefixes[::-1]
    if len({prefix >> 4 for prefix in prefixes}) > 1:
        yield [prefix for prefix in prefixes if prefix >> 4 != prefixes[0] >> 4]
    if follow.bits > 0:
        foreign = next(
            number << 4 for number in range(1 << follow.bits) if number not in {prefix >> 4 for prefix in prefixes}
        )
        if foreign < 1 << follow.bits:
            yield sorted([*prefixes[1:], foreign])
            yield sorted([*prefixes, foreign])
        siblings = {(prefix >> 4 << 4) + digit for prefix in prefixes for digit in range(16)} - set(prefixes)
        yield sorted([*prefixes, *sorted(siblings)[: most + 1 - len(prefixes)]])


@pytest.mark.parametrize("run", RUNS)
def test_every_deviation_is_refused_and_ends_the_answers(run: tuple[int, frozenset[int], bool]) -> None:
    asked, guard = _recorded(*run)
    kinds = set()
    for at in range(len(asked)):
        for what, question in _deviations(asked, at):
            kinds.add(what)
            due = guard()
            for admitted in asked[:at]:
                due.admit(admitted)
            with pytest.raises(FednnUNetError, match="which the protocol does not allow now"):
                due.admit(question)
            with pytest.raises(FednnUNetError, match="which the protocol does not allow now"):
                due.admit(asked[at])
    assert len(kinds) == (10 if run[2] else 11)


@pytest.mark.parametrize("run", RUNS)
def test_after_the_last_question_there_is_no_other(run: tuple[int, frozenset[int], bool]) -> None:
    asked, guard = _recorded(*run)
    for more in asked[:-1]:
        due = guard()
        for admitted in asked:
            due.admit(admitted)
        with pytest.raises(FednnUNetError, match="which the protocol does not allow now"):
            due.admit(more)


def test_low_spacings_are_looked_for_once() -> None:
    asked, guard = _recorded(RUNS[1][0], frozenset({0, 2}), False)
    other_axis = Follow(quantity=Quantity("spacing", 1), bits=0, prefixes=[0])
    for again in (asked[17], DigitsQuestion(follow=[other_axis])):
        due = guard()
        for admitted in asked[: 17 + 16]:
            due.admit(admitted)
        with pytest.raises(FednnUNetError, match="asks for digits of spacing, which"):
            due.admit(again)


@pytest.mark.parametrize("run", RUNS)
def test_each_question_may_be_repeated_before_the_next_and_counts_once(run: tuple[int, frozenset[int], bool]) -> None:
    asked, guard = _recorded(*run)
    due = guard()
    assert not due.has_begun
    for question in asked:
        for _ in range(3):
            due.admit(type(question).from_json(question.to_json()))
        assert due.has_begun


# What the docstring of `fednnunet.fingerprint.due` promises: questions, prefixes of each channel, and all others.
EXACT_BOUND, SHARED_BOUND = (41, 57, 307), (17, 57, 31)
TARGET = (0.5, 0.5, 0.5)


def _all_quantities(channels: int) -> list[Quantity]:
    geometry = [Quantity(name, axis) for name in ("spacing", "shape") for axis in AXES]
    return [*(Quantity("intensity", channel) for channel in range(channels)), *geometry, Quantity("relative_size", 0)]


class _Adversary:
    """A coordinator that asks for as much as it gets.

    Parameters
    ----------
    due
        The node's guard.
    choose
        Chooses up to this many of these prefixes.
    """

    def __init__(self, due: QuestionsDue, choose: Callable[[list[int], int], list[int]]) -> None:
        self._due, self._choose = due, choose
        self.admitted: list[Asked] = []

    def ask(self, question: Asked) -> bool:
        try:
            self._due.admit(question)
        except FednnUNetError:
            return False
        if question not in self.admitted[-1:]:  # asked again, it is answered in the same way
            self.admitted.append(question)
        return True

    def search(
        self, quantities: Sequence[Quantity], most: int, target: tuple[float, float, float] | None = None
    ) -> bool:
        """Follow quantities to the end of their keys, `most` prefixes of each, 8 of intensities."""
        prefixes: dict[Quantity, list[int]] = {quantity: [0] for quantity in quantities}
        for bits in range(0, 64, 4):
            still_open = [q for q in quantities if bits < 32 or q.name in ("spacing", "relative_size")]
            if not still_open:
                return True
            follow = [Follow(quantity=quantity, bits=bits, prefixes=prefixes[quantity]) for quantity in still_open]
            if not self.ask(DigitsQuestion(follow=follow, target_spacing=target)):
                return False
            for q in still_open:
                children = [(prefix << 4) + digit for prefix in prefixes[q] for digit in range(16)]
                prefixes[q] = sorted(self._choose(children, 8 if q.name == "intensity" else most))
        return True

    def spent(self, channels: int) -> tuple[int, int, int]:
        """Return the number of questions, of prefixes of the channel that has most, and of all others."""
        counts: dict[Quantity, int] = {}
        for question in self.admitted:
            for follow in question.follow if isinstance(question, DigitsQuestion) else []:
                counts[follow.quantity] = counts.get(follow.quantity, 0) + len(follow.prefixes)
        intensities = [counts.pop(Quantity("intensity", channel), 0) for channel in range(channels)]
        return len(self.admitted), max(intensities), sum(counts.values())


def _spread(children: list[int], most: int) -> list[int]:
    """Choose one child of each parent, and then as many more as there may be."""
    firsts = children[::16]
    return firsts + [child for child in children if child % 16][: most - len(firsts)]


@pytest.mark.parametrize("channels", [1, 3])
def test_a_coordinator_that_asks_for_most_gets_what_is_documented_and_no_more(channels: int) -> None:
    for cases, tells_cases, bound in ((12, False, EXACT_BOUND), (12, True, SHARED_BOUND)):
        due = QuestionsDue((shared_cases_questions if tells_cases else exact_questions)(cases, channels))
        adversary = _Adversary(due, _spread)
        assert adversary.ask(MomentsQuestion())
        quantities = _all_quantities(channels)
        first = [q for q in quantities if q.name in ("intensity", "relative_size")] if tells_cases else quantities
        assert adversary.search(first, 2)
        if not tells_cases:
            assert adversary.search(SPACINGS, 2)
            assert adversary.search(RESAMPLED_SHAPES, 2, TARGET)
        assert adversary.spent(channels) == bound
        assert not adversary.ask(MomentsQuestion())


def test_where_the_number_of_cases_is_odd_one_prefix_is_followed_to_a_median() -> None:
    for most, is_admitted in ((1, True), (2, False)):
        adversary = _Adversary(QuestionsDue(exact_questions(13, 1)), _spread)
        adversary.ask(MomentsQuestion())
        assert adversary.search(_all_quantities(1), most) == is_admitted


@settings(max_examples=100)
@given(
    st.one_of(st.just([0, 1, 2, 3, 2, 3, 0, 1]), st.lists(st.integers(0, 3), max_size=12)),
    st.integers(0, 2**32),
    st.integers(1, 30),
    st.integers(1, 2),
    st.booleans(),
)
def test_whatever_is_asked_no_more_is_answered_than_is_documented(
    steps: list[int], seed: int, cases: int, channels: int, tells_cases: bool
) -> None:
    guards = shared_cases_questions if tells_cases else exact_questions
    random = Random(seed)
    adversary = _Adversary(
        QuestionsDue(guards(cases, channels)), lambda children, most: _choose(random, children, most)
    )
    quantities = _all_quantities(channels)
    first = [q for q in quantities if q.name in ("intensity", "relative_size")] if tells_cases else quantities
    searches: list[Callable[[], bool]] = [
        lambda: adversary.ask(MomentsQuestion()),
        lambda: adversary.search(first, 2 - cases % 2),
        lambda: adversary.search(sorted(random.sample(SPACINGS, 2)), random.randint(1, 2)),
        lambda: adversary.search(RESAMPLED_SHAPES, 2 - cases % 2, TARGET),
    ]
    for step in steps:
        searches[step]()
    bound = SHARED_BOUND if tells_cases else EXACT_BOUND
    assert all(spent <= most for spent, most in zip(adversary.spent(channels), bound, strict=True))


def _choose(random: Random, children: list[int], most: int) -> list[int]:
    parents = [random.choice(children[start : start + 16]) for start in range(0, len(children), 16)]
    rest = [child for child in children if child not in parents]
    return parents + random.sample(rest, random.randint(0, max(0, most - len(parents))))
