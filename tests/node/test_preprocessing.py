from typing import Any

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.preprocessing import check_configurations, check_dimensions, processes_of
from fednnunet.settings.flag import filled
from fednnunet.settings.node import PlanningSettings

CASCADE = "3d_cascade_fullres"


@pytest.mark.parametrize(
    ("configurations", "counts", "expected"),
    [
        (["2d", "3d_fullres", "3d_lowres"], None, {"2d": 8, "3d_fullres": 4, "3d_lowres": 8}),
        (["2d", "3d_fullres"], [3], {"2d": 3, "3d_fullres": 3}),
        (["2d", "3d_fullres"], [3, 2], {"2d": 3, "3d_fullres": 2}),
        (["2d", CASCADE], [3, 2], {"2d": 3, "3d_lowres": 2, "3d_fullres": 2}),
        (["3d_fullres", CASCADE], [3, 2], {"3d_fullres": 3, "3d_lowres": 2}),
        ([CASCADE], None, {"3d_lowres": 8, "3d_fullres": 4}),
    ],
)
def test_processes_of_each_configuration(
    configurations: list[str], counts: list[int] | None, expected: dict[str, int]
) -> None:
    assert processes_of(configurations, counts) == expected


def test_counts_that_fit_no_configuration_are_refused() -> None:
    with pytest.raises(FednnUNetError, match="-np takes one number, or one for each of 2d, 3d_fullres"):
        processes_of(["2d", "3d_fullres"], [1, 2, 3])


PLANS: dict[str, Any] = {
    "plans_name": "given",
    "transpose_forward": [0, 1, 2],
    "configurations": {
        "2d": {"patch_size": [64, 64]},
        "2d_bs4": {"inherits_from": "2d"},
        "3d_fullres": {"patch_size": [64, 64, 64]},
    },
}


def test_given_plans_for_volumes_are_refused_where_images_are_slices() -> None:
    check_dimensions(PLANS, ["2d", "2d_bs4", "3d_lowres"], is_two_dimensional=True)
    check_dimensions(PLANS, ["2d", "3d_fullres"], is_two_dimensional=False)
    with pytest.raises(FednnUNetError, match="2D images, but 3d_fullres of the given plans is for volumes"):
        check_dimensions(PLANS, ["2d", "3d_fullres"], is_two_dimensional=True)
    with pytest.raises(FednnUNetError, match="turn axes"):
        check_dimensions(PLANS | {"transpose_forward": [2, 0, 1]}, ["2d"], is_two_dimensional=True)


def _planning(configuration: str, explicit: bool) -> PlanningSettings:
    named = {"configurations": (configuration,), "explicit_configurations": explicit}
    return filled(PlanningSettings, {"task": "plan_and_preprocess", "dataset": "301", **named})


def test_a_configuration_that_new_plans_lack_names_the_command_that_loses_nothing() -> None:
    dataset = SiteDataset("Dataset301_A")
    check_configurations(_planning("2d_bs8", explicit=False), PLANS, dataset)
    check_configurations(_planning("2d_bs4", explicit=True), PLANS, dataset)
    with pytest.raises(
        FednnUNetError, match=r"choose from 2d, 2d_bs4, 3d_fullres; .* -d 301 -plans_name given -c 2d_bs"
    ):
        check_configurations(_planning("2d_bs8", explicit=True), PLANS, dataset)
