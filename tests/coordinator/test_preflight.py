from typing import Any

import pytest

from fednnunet.cli.arguments import parse_server
from fednnunet.coordinator.preflight import check_agreement, check_federation, check_masking, check_task
from fednnunet.errors import FednnUNetError
from fednnunet.protocol.messages import Hello, PlannerOptions, TrainingOptions
from fednnunet.settings.coordinator import CoordinatorSettings
from tests.secure_aggregation.sites import identities, site_list


def _hello(**changes: Any) -> Hello:
    facts: dict[str, Any] = {
        "site": "Dataset001_A",
        "task": "train",
        "method": "FFE",
        "fold": "0",
        "cases": 5,
        "versions": {"fednnunet": "0.1.0", "nnunetv2": "2.8.1"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "channels": {"0": "CT", "1": "PET"},
        "image_reader": "SimpleITKIO",
        "planner": PlannerOptions(planner="ExperimentPlanner", preprocessor="DefaultPreprocessor"),
        "training": TrainingOptions(trainer="nnUNetTrainer", configuration="2d"),
        "plans_digest": "abc",
    }
    return Hello(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "organ": 1}}, ["labels", "'lesion': 2", "dataset.json"]),
        ({"channels": {"0": "CT"}}, ["channels", "'1': 'PET'", "dataset.json"]),
        ({"labels": {"background": 0, "organ": 1, "lesion": 2, "ignore": 3}}, ["ignore label 3", "has none"]),
        ({"method": "AsymFedAvg"}, ["AsymFedAvg", "FFE", "--asym"]),
        ({"fingerprint": "shared-cases"}, ["--fingerprint shared-cases"]),
        ({"image_reader": "NibabelIO"}, ["image reader", "SimpleITKIO", "NibabelIO"]),
        ({"fold": "1"}, ["fold 1", "has 0"]),
        ({"versions": {"fednnunet": "0.1.0", "nnunetv2": "2.7.0"}}, ["nnunetv2", "2.7.0", "2.8.1"]),
        ({"training": TrainingOptions(trainer="nnUNetTrainerNoDA", configuration="2d")}, ["-tr", "nnUNetTrainerNoDA"]),
        ({"training": None}, ["-tr none", "nnUNetTrainer"]),
        (
            {"planner": PlannerOptions(planner="X", preprocessor="DefaultPreprocessor", gpu_memory_target=11)},
            ["-pl", "ExperimentPlanner"],
        ),
        ({"plans_digest": "abd"}, ["plans", "plan_and_preprocess"]),
        ({"plans_digest": "abd", "plans_are_as_made": False}, ["at site Dataset002_B they were changed", "--plans"]),
        ({"plans_digest": "abd", "plans_are_own": True}, ["no federation made", "--plans FILE", "--asym"]),
    ],
)
def test_a_difference_is_refused_naming_both_sites_both_values_and_a_remedy(
    changes: dict[str, Any], words: list[str]
) -> None:
    with pytest.raises(FednnUNetError) as caught:
        check_agreement(_hello(), _hello(site="Dataset002_B", **changes))
    for word in ["Dataset001_A", "Dataset002_B", *words]:
        assert word in str(caught.value)


def test_sites_that_agree_are_let_in_whatever_their_size() -> None:
    check_agreement(_hello(), _hello(site="Dataset002_B", cases=4000))


def test_the_order_of_labels_counts_where_regions_are_used() -> None:
    labels: dict[str, Any] = {"background": 0, "whole": [1, 2], "core": [2]}
    swapped = {name: labels[name] for name in ("background", "core", "whole")}
    check_agreement(_hello(labels={"a": 0, "b": 1}), _hello(site="B", labels={"b": 1, "a": 0}))
    with pytest.raises(FednnUNetError, match="order of labels"):
        check_agreement(
            _hello(labels=labels, regions_class_order=[1, 2]),
            _hello(site="B", labels=swapped, regions_class_order=[1, 2]),
        )


def test_another_task_or_fold_than_the_coordinators_is_refused() -> None:
    check_task(_hello(), _coordinator("train 0"))
    check_task(_hello(), _coordinator("train"))
    with pytest.raises(FednnUNetError, match="train, the coordinator for plan_and_preprocess"):
        check_task(_hello(), _coordinator("plan_and_preprocess"))
    with pytest.raises(FednnUNetError, match="fold 0, the coordinator for fold all"):
        check_task(_hello(), _coordinator("train all"))


def test_a_coordinator_that_expects_a_method_is_given_no_other() -> None:
    planning = _hello(task="plan_and_preprocess", fingerprint="exact")
    check_task(planning, _coordinator("plan_and_preprocess"))
    check_task(planning, _coordinator("plan_and_preprocess --fingerprint exact"))
    with pytest.raises(FednnUNetError, match="without --asym"):
        check_task(planning, _coordinator("plan_and_preprocess --asym"))
    with pytest.raises(FednnUNetError, match="--fingerprint exact, the coordinator with shared-cases"):
        check_task(planning, _coordinator("plan_and_preprocess --fingerprint shared-cases"))


def test_sites_that_plan_alone_need_agree_in_labels_and_channels_only() -> None:
    alone = _hello(method="AsymFedAvg", task="plan_and_preprocess", image_reader="SimpleITKIO")
    other = PlannerOptions(planner="nnUNetPlannerResEncM", gpu_memory_target=4)
    check_agreement(alone, alone.model_copy(update={"site": "B", "planner": other, "image_reader": "Tiff3DIO"}))
    with pytest.raises(FednnUNetError, match="channels"):
        check_agreement(alone, alone.model_copy(update={"site": "B", "channels": {"0": "MRI"}}))


def test_what_users_should_know_before_they_train() -> None:
    sites = [
        _hello(site="A", task="plan_and_preprocess", cases=4),
        _hello(site="B", task="plan_and_preprocess", cases=5),
        _hello(site="C", task="plan_and_preprocess", cases=1, has_own_splits=True),
    ]
    (warning,) = check_federation(sites)
    assert "Site A has 4 cases" in warning
    assert "fold_all" in warning
    (warning,) = check_federation([_hello(plans_are_as_made=False), _hello(site="B")])
    assert "Dataset001_A were changed" in warning
    with pytest.raises(FednnUNetError, match="1 case, so its fingerprint would reveal single ones"):
        check_federation([_hello(task="plan_and_preprocess", cases=1)])
    check_federation([_hello(task="plan_and_preprocess", method="AsymFedAvg", cases=1)])


def test_models_from_anywhere_may_be_evaluated_together_but_different_ones_are_told() -> None:
    first, other = (_hello(task="evaluate", site=site, image_reader=None, planner=None) for site in ("A", "B"))
    alone = other.model_copy(update={"method": "AsymFedAvg", "plans_digest": "other"})
    check_agreement(first, alone)
    assert check_federation([first, alone]) == check_federation([first, other]) == []
    changed = other.model_copy(update={"plans_digest": "other", "cases": 0})
    check_agreement(first, changed)
    (warning,) = check_federation([first, changed])
    assert "The model of site B has other plans than that of site A" in warning
    check_task(first, _coordinator("evaluate 0"))
    with pytest.raises(FednnUNetError, match="fold 0, the coordinator for fold all"):
        check_task(first, _coordinator("evaluate all"))
    with pytest.raises(FednnUNetError, match="channels"):
        check_agreement(first, other.model_copy(update={"channels": {"0": "CT"}}))


def _coordinator(words: str) -> CoordinatorSettings:
    return parse_server([*words.split(), "--num_clients", "2"]).coordinator


LISTED = site_list(identities())
"""The coordinator's list of sites."""
PLANNING = {"task": "plan_and_preprocess", "fold": None, "training": None, "plans_digest": None}


@pytest.mark.parametrize("facts", [{}, PLANNING, {**PLANNING, "task": "extract_fingerprint"}, {"method": "AsymFedAvg"}])
def test_a_site_must_mask_if_and_only_if_the_coordinator_sums_masked_answers(facts: dict[str, Any]) -> None:
    task = str(facts.get("task", "train"))
    plain, masked = _hello(**facts), _hello(**facts, sites_digest=LISTED.digest)
    secure = _coordinator(f"{task} --secure")
    check_masking(masked, secure, LISTED)
    check_masking(plain, _coordinator(task), None)
    with pytest.raises(FednnUNetError, match=r"Site Dataset001_A sends plain (updates|answers): start its node with -"):
        check_masking(plain, secure, LISTED)
    with pytest.raises(FednnUNetError, match=r"Dataset001_A takes part in masked sums only: .* with --secure"):
        check_masking(masked, _coordinator(task), None)
    other = site_list(identities()).digest
    with pytest.raises(FednnUNetError, match=f"digest {other}, .* {LISTED.digest}: compare 'fednnunet sites digest'"):
        check_masking(_hello(**facts, sites_digest=other), secure, LISTED)


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({**PLANNING, "method": "AsymFedAvg"}, "plan_and_preprocess"),
        (PLANNING, "plan_and_preprocess --plans plans.json"),
        ({"training": TrainingOptions(trainer="T", configuration="2d", validation_only=True)}, "train"),
        ({"task": "evaluate"}, "evaluate"),
    ],
)
def test_where_nothing_is_summed_it_makes_no_difference(facts: dict[str, Any], words: str) -> None:
    for digest in (None, LISTED.digest):
        check_masking(_hello(**facts, sites_digest=digest), _coordinator(words), None)
        if words != "evaluate":
            check_masking(_hello(**facts, sites_digest=digest), _coordinator(f"{words} --secure"), LISTED)
