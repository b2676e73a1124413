import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.fingerprint import INTENSITY_FIELDS, Fingerprint
from fednnunet.fingerprint.merge import merge
from fednnunet.fingerprint.plans import plans_digest


def _fingerprint_of(intensities: list[np.ndarray], rng: np.random.Generator) -> Fingerprint:
    """Return the fingerprint of a site whose cases have the given foreground samples, one channel, one array a case."""
    pooled = np.concatenate(intensities)
    statistics = {
        "mean": pooled.mean(),
        "median": np.median(pooled),
        "std": pooled.std(),
        "min": pooled.min(),
        "max": pooled.max(),
        "percentile_99_5": np.percentile(pooled, 99.5),
        "percentile_00_5": np.percentile(pooled, 0.5),
    }
    cases = len(intensities)
    return Fingerprint(
        spacings=rng.uniform(0.5, 3, (cases, 3)),
        shapes=rng.integers(10, 90, (cases, 3)),
        intensities=np.array([[statistics[name] for name in INTENSITY_FIELDS]]),
        relative_size=float(rng.uniform(0.2, 1)),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.integers(0, 2**32 - 1))
def test_merged_statistics_are_those_of_the_pooled_cases(cases_of_site: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    sites = [
        [rng.normal(rng.uniform(-500, 500), rng.uniform(1, 80), 40) for _ in range(cases)] for cases in cases_of_site
    ]
    parts = [_fingerprint_of(site, rng) for site in sites]
    merged = merge(parts)
    pooled = np.concatenate([case for site in sites for case in site])
    by_name = dict(zip(INTENSITY_FIELDS, merged.intensities[0], strict=True))
    np.testing.assert_allclose(by_name["mean"], pooled.mean(), rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(by_name["std"], pooled.std(), rtol=1e-12)
    assert by_name["min"] == pooled.min()
    assert by_name["max"] == pooled.max()
    assert merged.cases == sum(cases_of_site)
    np.testing.assert_array_equal(merged.spacings, np.concatenate([part.spacings for part in parts]))
    np.testing.assert_array_equal(merged.shapes, np.concatenate([part.shapes for part in parts]))


def test_the_fingerprint_of_one_site_is_its_own() -> None:
    rng = np.random.default_rng(0)
    own = _fingerprint_of([rng.normal(size=30), rng.normal(size=30)], rng)
    merged = merge([own])
    np.testing.assert_allclose(merged.intensities, own.intensities, rtol=1e-15)
    assert merged.relative_size == own.relative_size


def test_arrays_and_nnunet_json_give_the_fingerprint_back() -> None:
    rng = np.random.default_rng(1)
    own = _fingerprint_of([rng.normal(size=30)] * 3, rng)
    for copy in (
        Fingerprint.from_arrays(own.to_arrays()),
        Fingerprint.from_nnunet(json.loads(json.dumps(own.to_nnunet()))),
    ):
        for name in ("spacings", "shapes", "intensities"):
            np.testing.assert_array_equal(getattr(copy, name), getattr(own, name))
            assert getattr(copy, name).dtype == getattr(own, name).dtype
        assert copy.relative_size == own.relative_size


@pytest.mark.parametrize("damage", ["dtype", "shape", "missing", "empty"])
def test_malformed_arrays_are_refused(damage: str) -> None:
    rng = np.random.default_rng(2)
    arrays = _fingerprint_of([rng.normal(size=30)] * 2, rng).to_arrays()
    match damage:
        case "dtype":
            arrays[1] = arrays[1].astype(np.float64)
        case "shape":
            arrays[0] = arrays[0][:1]
        case "missing":
            arrays.pop()
        case "empty":
            arrays[0], arrays[1] = arrays[0][:0], arrays[1][:0]
    with pytest.raises(FednnUNetError, match="fingerprint"):
        Fingerprint.from_arrays(arrays)


def test_sites_with_different_channels_cannot_be_merged() -> None:
    rng = np.random.default_rng(3)
    one = _fingerprint_of([rng.normal(size=30)], rng)
    two = Fingerprint(one.spacings, one.shapes, np.repeat(one.intensities, 2, axis=0), one.relative_size)
    with pytest.raises(FednnUNetError, match="channels"):
        merge([one, two])


def test_plans_digest_ignores_the_name_of_the_dataset_and_nothing_else() -> None:
    plans = {"dataset_name": "A", "plans_name": "nnUNetPlans", "configurations": {"2d": {"batch_size": 2}}}
    assert plans_digest(plans) == plans_digest({**plans, "dataset_name": "B"})
    assert plans_digest(plans) != plans_digest({**plans, "configurations": {"2d": {"batch_size": 3}}})
