import math

import numpy as np
import pytest

from fednnunet.evaluation.paired import confidence, crossed_confidence


def test_with_one_seed_the_interval_is_students():
    values = [0.1, 0.4, 0.3, -0.2]
    assert crossed_confidence([values]) == confidence(values)


def test_seeds_that_agree_say_no_more_than_one():
    values = [0.1, 0.4, 0.3, -0.2]
    one, three = confidence(values), crossed_confidence([values] * 3)
    assert one is not None
    assert three is not None
    assert (three.mean, three.cases, three.seeds) == (pytest.approx(one.mean), 4, 3)
    assert (three.low, three.high) == (pytest.approx(one.low), pytest.approx(one.high))


def test_many_cases_cannot_make_up_for_few_seeds():
    found = crossed_confidence([[0.1] * 500, [0.2] * 500, [0.3] * 500])
    assert found is not None
    assert found.high == pytest.approx(0.2 + 4.302652730 * 0.1 / math.sqrt(3))  # Student's t with 2 degrees of freedom


def test_what_is_not_there_has_no_interval():
    assert crossed_confidence([]) is None
    assert crossed_confidence([[], []]) is None
    single = crossed_confidence([[0.1], [0.3]])
    assert single is not None
    assert (single.mean, single.cases, single.seeds) == (pytest.approx(0.2), 1, 2)
    assert crossed_confidence([[0.5, 0.5], [0.5, 0.5]]).low == 0.5


@pytest.mark.parametrize(("of_seeds", "of_cases", "of_rest"), [(1, 1, 1), (2, 0, 1), (0, 2, 1), (0, 0, 1)])
def test_the_interval_holds_the_mean_of_all_seeds_and_cases_as_often_as_it_says(of_seeds, of_cases, of_rest):
    random = np.random.default_rng(0)
    held = 0
    for _ in range(600):
        values = of_seeds * random.normal(size=(3, 1)) + of_cases * random.normal(size=(1, 12))
        found = crossed_confidence((values + of_rest * random.normal(size=(3, 12))).tolist())
        held += found.low <= 0 <= found.high
    assert held / 600 > 0.93
