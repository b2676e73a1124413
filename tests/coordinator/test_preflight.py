from typing import Any

import pytest

from fednnunet.channel.messages import Hello, PlannerOptions
from fednnunet.coordinator.preflight import check_agreement, check_name_is_free, check_task
from fednnunet.errors import FednnUNetError


def _hello(**changes: Any) -> Hello:
    facts: dict[str, Any] = {
        "site": "Dataset001_A",
        "task": "train",
        "fold": "0",
        "cases": 5,
        "versions": {"fednnunet": "0.1.0", "nnunetv2": "2.8.1"},
        "labels": {"background": 0, "organ": 1, "lesion": 2},
        "channels": {"0": "CT", "1": "PET"},
        "image_reader": "SimpleITKIO",
        "planner": PlannerOptions(planner="ExperimentPlanner", preprocessor="DefaultPreprocessor"),
        "options": {"-tr": "nnUNetTrainer"},
        "plans_digest": "abc",
    }
    return Hello(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"labels": {"background": 0, "organ": 1}}, ["labels", "'lesion': 2", "dataset.json"]),
        ({"channels": {"0": "CT"}}, ["channels", "'1': 'PET'", "dataset.json"]),
        ({"channels": {"1": "PET", "0": "CT"}}, ["order of channels"]),
        ({"image_reader": "NibabelIO"}, ["image reader", "SimpleITKIO", "NibabelIO"]),
        ({"fold": "1"}, ["fold 1", "has 0"]),
        ({"versions": {"fednnunet": "0.1.0", "nnunetv2": "2.7.0"}}, ["nnunetv2", "2.7.0", "2.8.1"]),
        ({"options": {"-tr": "nnUNetTrainerNoDA"}}, ["-tr", "nnUNetTrainerNoDA"]),
        (
            {"planner": PlannerOptions(planner="X", preprocessor="DefaultPreprocessor", gpu_memory_target=11)},
            ["-pl", "ExperimentPlanner"],
        ),
        ({"plans_digest": "abd"}, ["plans", "plan_and_preprocess"]),
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
    check_task(_hello(), "train", "0")
    check_task(_hello(), "train", None)
    with pytest.raises(FednnUNetError, match="train, the coordinator for plan_and_preprocess"):
        check_task(_hello(), "plan_and_preprocess", None)
    with pytest.raises(FednnUNetError, match="fold 0, the coordinator for fold all"):
        check_task(_hello(), "train", "all")


def test_a_site_takes_part_once() -> None:
    check_name_is_free(_hello(), [_hello(site="B")])
    with pytest.raises(FednnUNetError, match="Dataset001_A takes part already"):
        check_name_is_free(_hello(), [_hello()])
