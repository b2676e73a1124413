"""Which plans a node takes from a coordinator, and which it does not."""

import copy
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fednnunet.coordinator.planner import FederationPlanner
from fednnunet.errors import FednnUNetError
from fednnunet.fingerprint.coverage import PLANNERS
from fednnunet.fingerprint.fingerprint import Fingerprint
from fednnunet.fingerprint.plans import check_fingerprint, check_plans, check_resampling, plans_digest
from fednnunet.node.dataset import SiteDataset
from fednnunet.node.planning import PlanningClient, check_common
from fednnunet.protocol.messages import CommonPlans, FederationRecord, Hello, Installed, PlannerOptions
from fednnunet.settings.node import PlanningSettings
from tests.fingerprint.example_plans import FINGERPRINT, PLANS

Plans = dict[str, Any]
Change = Callable[[Plans], Any]

HELLO = Hello(
    site="A",
    task="plan_and_preprocess",
    method="FFE",
    cases=3,
    versions={},
    labels={"background": 0, "x": 1},
    channels={"0": "CT", "1": "zscore"},
    image_reader="SimpleITKIO",
    planner=PlannerOptions(planner="ExperimentPlanner"),
)
SPACINGS = {"2D": (999.0, 0.7, 0.7), "anisotropic": (5.0, 0.7, 0.7), "large": (1.0, 0.5, 0.5)}
SHAPES = {"2D": (1, 300, 200), "anisotropic": (20, 300, 300), "large": (700, 900, 900)}


@pytest.mark.parametrize(
    ("planner", "kind"),
    [
        *((planner, "anisotropic") for planner in PLANNERS),
        *((planner, kind) for planner in ("ExperimentPlanner", "nnUNetPlannerResEncM") for kind in ("2D", "large")),
    ],
)
def test_plans_of_all_of_nnunets_planners_are_taken(planner: str, kind: str) -> None:
    fingerprint = Fingerprint(
        spacings=np.array([SPACINGS[kind]] * 5),
        shapes=np.array([SHAPES[kind]] * 5),
        intensities=np.arange(14.0).reshape(2, 7),
        relative_size=0.7,
    )
    hello = HELLO.model_copy(update={"planner": PlannerOptions(planner=planner, gpu_memory_target=2)})
    with torch.device("meta"):  # a planner counts features, for which networks need no memory
        plans = FederationPlanner(hello, 5).plans(fingerprint)
    assert ("3d_cascade_fullres" in plans["configurations"]) == (kind == "large")
    check_plans(_by_wire(plans))
    check_fingerprint(_by_wire(fingerprint.to_nnunet()))


def _by_wire(content: Plans) -> Plans:
    return CommonPlans.from_json(CommonPlans(fingerprint=content).to_json()).fingerprint


def _set(value: Any, *keys: str) -> Change:
    def change(plans: Plans) -> None:
        for key in keys[:-1]:
            plans = plans[key]
        plans[keys[-1]] = value

    return change


def _of_configuration(value: Any, *keys: str) -> Change:
    return _set(value, "configurations", "3d_fullres", *keys)


def _of_network(value: Any, *keys: str) -> Change:
    return _of_configuration(value, "architecture", *keys)


def _importing(name: str, value: Any) -> Change:
    def change(plans: Plans) -> None:
        architecture = plans["configurations"]["3d_fullres"]["architecture"]
        architecture["arch_kwargs"][name] = value
        architecture["_kw_requires_import"] = [name]

    return change


def _former(**changes: Any) -> Change:
    """Write the network as nnU-Net did before there was an architecture in the plans."""

    def change(plans: Plans) -> None:
        configuration = plans["configurations"]["3d_fullres"]
        del configuration["architecture"]
        configuration |= {
            "UNet_class_name": "PlainConvUNet",
            "UNet_base_num_features": 32,
            "unet_max_num_features": 320,
            "n_conv_per_stage_encoder": [2, 2],
            "n_conv_per_stage_decoder": [2],
            "num_pool_per_axis": [1, 1, 0],
            "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 1]],
            "conv_kernel_sizes": [[3, 3, 3], [3, 3, 3]],
            **changes,
        }

    return change


_NETWORKS = (
    "os.system",
    "subprocess.Popen",
    "torch.load",
    "torch.hub.load",
    "torch.nn.Module",
    "builtins.eval",
    "dynamic_network_architectures.architectures.unet.torch.hub.load",
    "dynamic_network_architectures.architectures.unet.torch.hub.HTTPError",
    "dynamic_network_architectures.architectures.unet.PlainConvUNet.__init__",
    "dynamic_network_architectures.architectures.unet.PlainConvUNet\n",
    "dynamic_network_architectures.architectures.__loader__.Popen",
    "dynamic_network_architectures_of_mine.architectures.unet.PlainConvUNet",
    "PlainConvUNet",
    "",
    None,
    7,
)
_LAYERS = (
    "os.system",
    "torch.load",
    "torch.nn.functional.F",
    "torch.nn.modules.conv.torch.load",
    "torch.nn.init.calculate_gain",
    "torch.nn.modules.module.warnings.WarningMessage",
    "dynamic_network_architectures.building_blocks.helper.torch.Tensor",
    "torch.nn.Conv3d()",
    ["torch.nn.Conv3d"],
    7,
)
_PATHS = (
    "../../x",
    "/etc/x",
    "a\0b",
    "a/b",
    "a\\b",
    "..",
    ".",
    "",
    ".hidden",
    " a",
    "gt_segmentations",
    "x\n",
    7,
    None,
)
_FILES = ("../evil", "/etc/passwd", "splits_final", "Dataset", "dataset_fingerprint", "federation", "a/../b", "", None)
_CODE = ("shutil.rmtree", "rmtree", "load_pickle", "save_pickle", "subprocess", "os", "system", "__import__", "", None)


@pytest.mark.parametrize("name", _NETWORKS)
def test_networks_that_are_not_of_dynamic_network_architectures_are_refused(name: Any) -> None:
    _assert_refused(_of_network(name, "network_class_name"), "network_class_name")


@pytest.mark.parametrize("value", _LAYERS)
@pytest.mark.parametrize("name", ["conv_op", "mine"])
def test_arguments_that_are_imported_are_layers(name: str, value: Any) -> None:
    _assert_refused(_importing(name, value), "_kw_requires_import|arch_kwargs")


def test_an_argument_that_is_to_be_imported_is_there() -> None:
    _assert_refused(_of_network(["nobody"], "_kw_requires_import"), "_kw_requires_import")


@pytest.mark.parametrize("path", _PATHS)
def test_data_do_not_leave_the_datasets_folder_nor_replace_what_else_is_there(path: Any) -> None:
    _assert_refused(_of_configuration(path, "data_identifier"), "data_identifier")


@pytest.mark.parametrize("name", _FILES)
def test_plans_do_not_leave_the_datasets_folder_nor_replace_what_else_is_there(name: Any) -> None:
    _assert_refused(_set(name, "plans_name"), "plans_name")


@pytest.mark.parametrize("name", _CODE)
@pytest.mark.parametrize("key", ["image_reader_writer", "label_manager"])
def test_plans_name_no_other_code_than_there_is_for_its_purpose(key: str, name: Any) -> None:
    _assert_refused(_set(name, key), key)


@pytest.mark.parametrize("name", _CODE)
@pytest.mark.parametrize(
    "key", ["preprocessor_name", "resampling_fn_data", "resampling_fn_seg", "resampling_fn_probabilities"]
)
def test_configurations_name_no_other_code_than_there_is_for_its_purpose(key: str, name: Any) -> None:
    _assert_refused(_of_configuration(name, key), key)
    if key == "preprocessor_name":
        _assert_refused(_of_configuration([name], "normalization_schemes"), "normalization_schemes")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (_of_configuration("3d_fullres", "inherits_from"), "inherit"),
        (_of_configuration("3d_cascade_fullres", "inherits_from"), "inherit"),
        (_of_configuration("nobody", "inherits_from"), "name each other"),
        (_of_configuration(None, "inherits_from"), "inherits_from"),
        (_of_configuration("../../../elsewhere", "previous_stage"), "previous_stage"),
        (_of_configuration("nobody", "previous_stage"), "name each other"),
        (_of_configuration(["3d_cascade_fullres", "../../x"], "next_stage"), "next_stage"),
        (_set({}, "configurations"), "configurations"),
        (_set({"inherits_from": "2d"}, "configurations", "../x"), "configurations"),
        (_set([], "configurations", "2d"), "configurations.2d"),
        (_set({}, "configurations", "2d"), "configurations.2d"),
        (_set([0, 1], "transpose_forward"), "transpose_forward"),
        (_set([0, 1, 1], "transpose_backward"), "transpose_backward"),
        (_set([False, 1, 2], "transpose_forward"), "transpose_forward"),
        (_set({"x": {}}, "foreground_intensity_properties_per_channel"), "foreground_intensity"),
        (_set("a b", "experiment_planner_used"), "experiment_planner_used"),
        (_of_configuration([0, 128, 128], "patch_size"), "patch_size"),
        (_of_configuration([10**9, 1, 1], "patch_size"), "patch_size"),
        (_of_configuration([128], "patch_size"), "patch_size"),
        (_of_configuration(["128", 1, 1], "patch_size"), "patch_size"),
        (_of_configuration(0, "batch_size"), "batch_size"),
        (_of_configuration(True, "batch_size"), "batch_size"),
        (_of_configuration(10**7, "batch_size"), "batch_size"),
        (_of_configuration(None, "architecture"), "architecture"),
        (_of_network(10**6, "arch_kwargs", "n_stages"), "n_stages|arch_kwargs"),
        (_of_network(1000, "arch_kwargs", "n_stages"), "n_stages"),
        (_of_network([10**6], "arch_kwargs", "features_per_stage"), "arch_kwargs"),
        (_of_network([1] * 101, "arch_kwargs", "features_per_stage"), "arch_kwargs"),
        (_of_network([[[[[[[1]]]]]]], "arch_kwargs", "strides"), "arch_kwargs"),
        (_of_network("../x", "arch_kwargs", "weights"), "arch_kwargs"),
        (_of_network(1, "arch_kwargs", "__class__"), "arch_kwargs"),
        (_of_network(1, "arch_kwargs", "a b"), "arch_kwargs"),
        (_of_configuration({"file": "/etc/x"}, "resampling_fn_data_kwargs"), "resampling_fn_data_kwargs"),
        (_of_configuration(None, "resampling_fn_seg_kwargs"), "resampling_fn_seg_kwargs"),
        (_former(UNet_class_name="Popen"), "UNet_class_name"),
        (_former(n_conv_per_stage_encoder=[2] * 101), "n_conv_per_stage_encoder"),
        (_former(UNet_base_num_features=10**6), "UNet_base_num_features"),
        (_former(conv_kernel_sizes=7), "conv_kernel_sizes"),
    ],
)
def test_a_key_that_nnunet_could_stumble_over_is_named(change: Change, key: str) -> None:
    _assert_refused(change, key)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_of_configuration([100_000] * 3, "patch_size"), r"3d_fullres .*patch_size \[100000, 100000, 100000\]"),
        (_of_configuration([4096] * 3, "patch_size"), r"patch_size \[4096"),
        (_of_configuration(100_000, "batch_size"), "batch_size 100000"),
        (_of_network([100_000] * 4, "arch_kwargs", "features_per_stage"), "features_per_stage 100000"),
        (_of_network(100_000, "arch_kwargs", "features_per_stage"), "features_per_stage 100000"),
        (_of_network(100_000, "arch_kwargs", "kernel_sizes"), "kernel_sizes of 1e[+]15"),
        (_of_network([[3, 3, 100_000]] * 4, "arch_kwargs", "kernel_sizes"), "kernel_sizes of 900000"),
        (_of_network(100_000, "arch_kwargs", "n_conv_per_stage"), "n_conv_per_stage_decoder make 400007 layers"),
        (_of_network(100_000, "arch_kwargs", "n_blocks_per_stage"), "n_blocks_per_stage"),
        (_of_network(100_000, "arch_kwargs", "n_conv_per_stage_decoder"), "n_conv_per_stage_decoder"),
        (_of_network(100_000, "arch_kwargs", "stem_channels"), "stem_channels has 100000"),
        (_of_network({"d_model": 100_000}, "arch_kwargs", "nonlin_kwargs"), "nonlin_kwargs has 100000"),
        (_of_network(9000, "arch_kwargs", "embed_dim"), "embed_dim 9000"),
        (_of_configuration({"num_threads": 100_000}, "resampling_fn_data_kwargs"), "num_threads is 100000"),
        (_of_configuration({"num_threads": 100_000}, "resampling_fn_probabilities_kwargs"), "num_threads is 100000"),
        (_former(UNet_base_num_features=100_000, unet_max_num_features=100_000), "features_per_stage 100000"),
        (_former(conv_kernel_sizes=[[3, 3, 3], [99_999] * 3]), "kernel_sizes"),
        (_of_configuration([1.0, 0.0, 1.0], "spacing"), "spacing"),
    ],
)
def test_plans_that_cost_more_than_any_machine_has_are_refused_naming_key_and_value(
    change: Change, sentence: str
) -> None:
    _assert_refused(change, sentence)


@pytest.mark.parametrize(
    ("configuration", "spacing", "voxels"),
    [
        ("3d_fullres", [1e-9] * 3, "e[+]3"),
        ("2d", [1e-9] * 2, "e[+]2"),
        ("3d_fullres", [0.01, 0.5, 0.5], "6.2e[+]10"),
    ],
)
def test_a_spacing_is_refused_where_it_makes_too_many_voxels_of_the_sites_own_largest_case(
    configuration: str, spacing: list[float], voxels: str
) -> None:
    plans = copy.deepcopy(PLANS)
    spacings, shapes = np.array([[1.0, 0.5, 0.5], [1.1, 0.5, 0.5]]), np.array([[9, 9, 9], [700, 900, 900]], np.uint32)
    check_resampling(plans, list(plans["configurations"]), spacings, shapes)
    plans["configurations"][configuration]["spacing"] = spacing
    check_plans(plans)
    with pytest.raises(FednnUNetError, match=f"{configuration} .*: spacing .*{voxels}.*--asym"):
        check_resampling(plans, [configuration], spacings, shapes)


def test_images_that_are_as_large_as_the_sites_own_are_resampled() -> None:
    huge = np.array([[20_000, 20_000, 20_000]], np.uint32)
    check_resampling(PLANS, ["3d_fullres"], np.array([[1.0, 0.5, 0.5]]), huge)


def _assert_refused(change: Change, key: str) -> None:
    plans = copy.deepcopy(PLANS)
    check_plans(plans)
    change(plans)
    with pytest.raises(FednnUNetError, match=key) as refusal:
        check_plans(plans)
    assert "--asym" in str(refusal.value)
    assert str(refusal.value).isprintable()
    assert len(str(refusal.value)) < 1000


@pytest.mark.parametrize(
    "change",
    [
        _former(),
        _former(UNet_class_name="ResidualEncoderUNet"),
        _set({"a comment": ["of the user"]}, "notes"),
        _set({"inherits_from": "3d_fullres", "batch_size": 4}, "configurations", "3d_fullres_bs4"),
        _importing("block", "dynamic_network_architectures.building_blocks.residual.BottleneckD"),
        _importing("dropout_op", None),
        _of_configuration(["3d_cascade_fullres"], "next_stage"),
        _set("my plans (v2)", "plans_name"),
        _set("NibabelIOWithReorient", "image_reader_writer"),
        _set("NaturalImage2DIO", "image_reader_writer"),
    ],
)
def test_what_users_of_nnunet_do_with_plans_is_taken(change: Change) -> None:
    plans = copy.deepcopy(PLANS)
    change(plans)
    check_plans(plans)


def test_code_that_the_site_names_itself_is_taken() -> None:
    plans = copy.deepcopy(PLANS)
    _of_configuration("prepare", "preprocessor_name")(plans)
    with pytest.raises(FednnUNetError, match="preprocessor_name"):
        check_plans(plans, trusted={"DefaultPreprocessor"})
    check_plans(plans, trusted={"prepare"})


def test_plans_have_the_name_that_the_site_gives_them() -> None:
    check_plans(PLANS, "nnUNetPlans")
    with pytest.raises(FednnUNetError, match="-overwrite_plans_name mine"):
        check_plans(PLANS, "mine")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (_set(1, "more"), "more"),
        (lambda fingerprint: fingerprint.pop("spacings"), "spacings"),
        (_set([[1.0, 1.0]], "spacings"), "spacings"),
        (_set([[1.0, 1.0, -1.0]], "spacings"), "spacings"),
        (_set([[1.0, 1.0, float("nan")]], "spacings"), "spacings"),
        (_set([], "spacings"), "spacings"),
        (_set([[1, 1, 1.5]], "shapes_after_crop"), "shapes_after_crop"),
        (_set({"0": {"mean": "../x"}}, "foreground_intensity_properties_per_channel"), "mean"),
        (_set(2.0, "median_relative_size_after_cropping"), "median_relative_size"),
    ],
)
def test_a_fingerprint_is_one_of_nnunets(change: Change, key: str) -> None:
    fingerprint = copy.deepcopy(FINGERPRINT)
    check_fingerprint(fingerprint)
    change(fingerprint)
    with pytest.raises(FednnUNetError, match=key):
        check_fingerprint(fingerprint)


def _common(plans: Plans | None = PLANS, fingerprint: Plans = FINGERPRINT) -> CommonPlans:
    digest = "none" if plans is None else plans_digest(plans)
    record = FederationRecord(method="FFE", sites=["A"], cases=3, plans_digest=digest, versions={})
    return CommonPlans(fingerprint=fingerprint, plans=plans, record=record)


@pytest.mark.parametrize(
    ("common", "changes", "reason"),
    [
        (_common({**PLANS, "plans_name": "../evil"}), {}, "plans_name"),
        (_common(fingerprint={}), {}, "spacings"),
        (_common(), {"method": "AsymFedAvg"}, "has --asym"),
        (_common(None), {"method": "AsymFedAvg"}, "has --asym"),
        (_common(), {"planner": None}, "for the fingerprint only"),
        (_common(), {"planner": PlannerOptions(planner="ExperimentPlanner", plans_name="mine")}, "mine"),
        (_common().model_copy(update={"plans": {**PLANS, "more": 1}}), {}, "altered in transit"),
    ],
)
def test_a_node_refuses_what_it_was_not_started_for(common: CommonPlans, changes: Plans, reason: str) -> None:
    check_common(_common(), HELLO)
    with pytest.raises(FednnUNetError, match=reason):
        check_common(common, HELLO.model_copy(update=changes))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlanningClient]:
    """A node that does not preprocess."""
    for variable in ("nnUNet_raw", "nnUNet_preprocessed"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    settings = PlanningSettings(task="plan_and_preprocess", dataset="1", no_pp=True)
    client = PlanningClient(settings, SiteDataset("Dataset001_A"), HELLO)
    client.dataset.raw.mkdir(parents=True)
    (client.dataset.raw / "dataset.json").write_text("{}")
    yield client
    client.close()


def _install(node: PlanningClient, common: CommonPlans) -> dict[str, Any]:
    config: dict[str, Any] = {"ask": "install", "body": common.to_json(), "id": "1"}
    while "pending" in (answer := node.get_properties(config)):
        pass
    return answer


@pytest.mark.parametrize("name", ["../evil", "dataset"])
def test_a_node_writes_nothing_of_plans_that_it_refuses(name: str, node: PlanningClient, tmp_path: Path) -> None:
    answer = _install(node, _common({**PLANS, "plans_name": name}))
    assert "plans_name" in answer["failure"]
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [node.dataset.raw / "dataset.json"]


def test_a_node_installs_plans_under_its_own_datasets_name(node: PlanningClient) -> None:
    answer = _install(node, _common())
    assert Installed.from_json(answer["body"]).plans_digest == plans_digest(PLANS)
    installed = json.loads((node.dataset.preprocessed / "nnUNetPlans.json").read_text())
    assert installed == {**PLANS, "dataset_name": "Dataset001_A"}
    assert json.loads((node.dataset.preprocessed / "dataset_fingerprint.json").read_text()) == FINGERPRINT
