"""FFE against nnU-Net's own extractor and planner on the pooled data, over generated federations."""

import contextlib
import importlib
import io
import json
import pkgutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnunetv2.experiment_planning.experiment_planners
import numpy as np
import pytest
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner

from fednnunet.coordinator.answer_sums import MaskedSums
from fednnunet.coordinator.planner import FederationPlanner
from fednnunet.fingerprint.coverage import PLANNERS
from fednnunet.fingerprint.due import QuestionsDue, exact_questions
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.measurement import SiteMeasurement
from fednnunet.fingerprint.plausibility import AnswersOfSite
from fednnunet.fingerprint.protocol import (
    exact_fingerprint,
    fingerprint_of,
    run_protocol,
    shared_cases_fingerprint,
)
from fednnunet.node.counting import MaskedCounting
from fednnunet.protocol.messages import Hello, PlannerOptions, Query
from fednnunet.protocol.secure_aggregation import SignedKeys
from fednnunet.secure_aggregation.attempts import Rules
from tests.pooled import READER, Case, Pooled, Sites, dataset_json, generate_federation, measure
from tests.secure_aggregation.sites import attempts, identities, site_list

FEDERATIONS = 240
SAMPLES = 20_000
"""Voxels in all instead of nnU-Net's 1e8; nothing else differs."""


def _planner(cases: list[Case], options: PlannerOptions) -> FederationPlanner:
    content = dataset_json(len(cases), len(cases[0].images))
    hello = Hello(
        site="A",
        task="plan_and_preprocess",
        method="FFE",
        cases=1,
        versions={},
        labels=content["labels"],
        channels=content["channel_names"],
        image_reader=READER,
        planner=options,
    )
    return FederationPlanner(hello, len(cases))


def _exact(sites: list[SiteMeasurement], planner: FederationPlanner, samples: int) -> Fingerprint:
    cases = sum(len(site.shapes) for site in sites)
    return run_protocol(exact_fingerprint(cases, len(sites[0].samples), samples, planner.target_spacing), sites)


def _exact_from_masked_answers(sites: list[SiteMeasurement], planner: FederationPlanner, samples: int) -> Fingerprint:
    cases, channels = sum(len(site.shapes) for site in sites), len(sites[0].samples)
    keys = identities([f"S{number}" for number in range(len(sites))])
    rules = Rules(site_list(keys))
    of_sites = {
        name: MaskedCounting(measurement, QuestionsDue(exact_questions(cases, channels)), cases, rules)
        for name, measurement in zip(keys, sites, strict=True)
    }
    signed = [of_sites[name].agree(attempt).signed for name, attempt in attempts(keys, {"cases": cases}).items()]
    assert len({counting.join(SignedKeys(keys=signed)) for counting in of_sites.values()}) == 1
    protocol = exact_fingerprint(cases, channels, samples, planner.target_spacing)
    sums = MaskedSums(AnswersOfSite(cases, channels, samples), channels)
    query = Query(question=next(protocol))
    try:
        while True:
            answers: Any = {name: counting.answer(query, query.to_json()) for name, counting in of_sites.items()}
            query = Query(question=protocol.send(sums.total(query.question, answers)))
    except StopIteration as end:
        fingerprint: Fingerprint = end.value
        return fingerprint


def _assert_statistics_equal(ours: dict[str, Any], stock: dict[str, Any], pooled: SiteMeasurement) -> None:
    """Compare order statistics bit for bit, mean and std with a float64 reference and with nnU-Net's float32 sums."""
    assert ours["median_relative_size_after_cropping"] == stock["median_relative_size_after_cropping"]
    for channel, expected in stock["foreground_intensity_properties_per_channel"].items():
        found = ours["foreground_intensity_properties_per_channel"][channel]
        for name in ("median", "min", "max", "percentile_99_5", "percentile_00_5"):
            assert found[name] == expected[name], name
        samples = pooled.samples[int(channel)]
        voxels = np.repeat(samples.values.astype(np.longdouble), samples.counts)
        scale = float(np.abs(voxels).max())
        for name, reference in (("mean", voxels.mean()), ("std", voxels.std())):
            assert abs(found[name] - reference) <= 1e-12 * max(abs(reference), 1e-3 * scale), name
            # float32 has a relative error of 6e-8 in each of the sums' terms
            assert abs(found[name] - expected[name]) <= 1e-5 * scale, name


def _without_moments(plans: dict[str, Any]) -> dict[str, Any]:
    plans = json.loads(json.dumps(plans))
    del plans["dataset_name"]
    for statistics in plans["foreground_intensity_properties_per_channel"].values():
        del statistics["mean"], statistics["std"]
    return plans


def _options_of(seed: int, cases: list[Case]) -> tuple[str, dict[str, Any]]:
    """Return a planner, and now and then a memory target, or a target spacing; fine ones need a low resolution."""
    rng = np.random.default_rng([seed, 1])
    options: dict[str, Any] = {}
    if rng.random() < 0.4:
        options["gpu_memory_target_in_gb"] = float(rng.choice([0.5, 1.0, 4.0]))
    if rng.random() < 0.3 and cases[0].images.shape[1] > 1:
        options["overwrite_target_spacing"] = [float(number) for number in rng.choice([0.2, 0.4, 1.0, 2.5], 3)]
    return PLANNERS[seed % len(PLANNERS)], options


def _federation(seed: int) -> tuple[Sites, list[Case]]:
    sites = generate_federation(seed)
    return sites, [case for site in sites for case in site]


@pytest.mark.filterwarnings("ignore:WARNING. You are running")
@pytest.mark.parametrize("part", range(8))
def test_statistics_and_plans_are_those_of_the_pooled_data(
    part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[str] = set()
    for seed in range(part, FEDERATIONS, 8):
        sites, cases = _federation(seed)
        pooled = Pooled(tmp_path / str(seed), cases, SAMPLES, monkeypatch)
        plans, stock = _compare(sites, pooled, *_options_of(seed, cases))
        kinds |= {*plans["configurations"], *_kinds(sites, stock)}
    # what the federations are meant to cover, they do cover
    assert kinds >= {"2d", "3d_fullres", "one case", "no foreground", "several channels", "cropped"}


@pytest.mark.filterwarnings("ignore:WARNING. You are running")
def test_masked_answers_give_statistics_and_plans_of_the_pooled_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: set[str] = set()
    for seed in range(FEDERATIONS, FEDERATIONS + 8):
        sites, cases = _federation(seed)
        pooled = Pooled(tmp_path / str(seed), cases, SAMPLES, monkeypatch)
        plans, stock = _compare(sites, pooled, *_options_of(seed, cases), find=_exact_from_masked_answers)
        kinds |= {*plans["configurations"], *_kinds(sites, stock)}
    assert kinds >= {"2d", "3d_fullres", "one case", "no foreground", "several channels", "cropped"}


def test_plans_with_a_low_resolution_are_those_of_the_pooled_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites, cases = next(
        (sites, cases)
        for sites, cases in map(_federation, range(100))
        if cases[0].images.shape[1] > 10 and min(cases[0].spacing) >= 0.8
    )
    pooled = Pooled(tmp_path, cases, SAMPLES, monkeypatch)
    given = {"gpu_memory_target_in_gb": 0.5, "overwrite_target_spacing": [0.2, 0.2, 0.2]}
    plans, _ = _compare(sites, pooled, "ExperimentPlanner", given)
    assert {"3d_lowres", "3d_cascade_fullres"} <= set(plans["configurations"])


def _compare(
    sites: Sites,
    pooled: Pooled,
    name: str,
    given: dict[str, Any],
    find: Callable[[list[SiteMeasurement], FederationPlanner, int], Fingerprint] = _exact,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Assert that a federation finds what nnU-Net does; return nnU-Net's plans and fingerprint."""
    stock = pooled.fingerprint()
    measured = [measure(site, pooled.samples_per_case) for site in sites]
    options = PlannerOptions(
        planner=name,
        gpu_memory_target=given.get("gpu_memory_target_in_gb"),
        target_spacing=given.get("overwrite_target_spacing"),
    )
    planner = _planner(list(pooled.cases), options)
    fingerprint = find(measured, planner, pooled.samples_per_case)
    _assert_statistics_equal(fingerprint.to_nnunet(), stock, measure(pooled.cases, pooled.samples_per_case))
    with contextlib.redirect_stdout(io.StringIO()):
        plans = pooled.plans(name, **given)
    assert _without_moments(planner.plans(fingerprint)) == _without_moments(plans)
    return plans, stock


def _kinds(sites: Sites, stock: dict[str, Any]) -> set[str]:
    found = {
        "one case": any(len(site) == 1 for site in sites),
        "no foreground": any(not any((case.segmentation > 0).any() for case in site) for site in sites),
        "several channels": len(sites[0][0].images) > 1,
        "cropped": stock["median_relative_size_after_cropping"] < 0.75,
    }
    return {name for name, holds in found.items() if holds}


def test_a_different_partition_into_sites_changes_nothing() -> None:
    _, cases = _federation(5)
    planner = _planner(cases, PlannerOptions(planner="ExperimentPlanner"))
    fingerprints = []
    for cut in range(1, len(cases)):
        sites = [measure(part, 300) for part in (cases[:cut], cases[cut:])]
        fingerprints.append(_exact(sites, planner, 300).to_nnunet())
    assert all(fingerprint == fingerprints[0] for fingerprint in fingerprints)


def test_with_shared_cases_the_fingerprint_lists_the_pooled_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        sites, cases = _federation(seed)
        pooled = Pooled(tmp_path / str(seed), cases, SAMPLES, monkeypatch)
        stock = pooled.fingerprint()
        measured = [measure(site, pooled.samples_per_case) for site in sites]
        spacings = np.concatenate([site.spacings for site in measured])
        shapes = np.concatenate([site.shapes for site in measured]).astype(np.int64)
        protocol = shared_cases_fingerprint(spacings, shapes, len(cases[0].images), pooled.samples_per_case)
        ours = run_protocol(protocol, measured).to_nnunet()
        everything = measure(cases, pooled.samples_per_case)
        _assert_statistics_equal(ours, stock, everything)
        assert (ours["spacings"], ours["shapes_after_crop"]) == (stock["spacings"], stock["shapes_after_crop"])
        alone = fingerprint_of(everything, pooled.samples_per_case).to_nnunet()
        assert json.dumps(alone) == json.dumps(ours)


def test_the_planners_that_are_compared_are_all_that_nnunet_has() -> None:
    package = nnunetv2.experiment_planning.experiment_planners
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)

    def descendants(planner: type) -> set[str]:
        return {planner.__name__}.union(*(descendants(child) for child in planner.__subclasses__()))

    assert descendants(ExperimentPlanner) == set(PLANNERS)
