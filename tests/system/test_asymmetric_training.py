"""AsymFedAvg through the real commands: sites whose own plans differ in patch size and number of stages."""

from dataclasses import replace

import numpy as np
import pytest

from fednnunet.demo.hospitals import HOSPITALS, write_hospitals
from tests.system.conftest import SITES, shrink_network
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system

SHORT = ("-device", "cpu", "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1, "-tr", "RecordingTrainer")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Three sites that have planned alone; the last one has finer images, hence a deeper network."""
    workspace = Workspace(tmp_path_factory.mktemp("each for itself"))
    hospitals = [replace(hospital, training_cases=5) for hospital in HOSPITALS]
    write_hospitals(workspace.raw, hospitals=hospitals[:2], test_cases=1, resolution=0.75)
    fine = workspace.folder / "fine"
    write_hospitals(fine, hospitals=hospitals, test_cases=1, resolution=2)
    (fine / SITES[2]).rename(workspace.raw / SITES[2])
    workspace.succeed("run", "plan_and_preprocess", "901 902 903", "2d", "--asym")
    for site in SITES:
        shrink_network(workspace.preprocessed / site / "nnUNetPlans.json")
    return workspace


def test_what_all_sites_have_is_averaged_and_the_rest_stays_at_each_site(workspace: Workspace) -> None:
    plans = [workspace.json(site, "nnUNetPlans.json")["configurations"]["2d"] for site in SITES]
    stages = [plan["architecture"]["arch_kwargs"]["n_stages"] for plan in plans]
    assert stages[2] > stages[0] == stages[1]
    assert len({tuple(plan["patch_size"]) for plan in plans}) == 3

    words = ("train", "901 902 903", "2d", 0, *SHORT, "--rounds", 2, "--weighting", "uniform", "--encoding", "float32")
    output = workspace.succeed("run", *words)
    weights = [workspace.checkpoint(site, trainer="RecordingTrainer")["network_weights"] for site in SITES]
    folders = [workspace.model_folder(site, trainer="RecordingTrainer") / "fold_0" for site in SITES]
    updates = [np.load(folder / "update_1.npz") for folder in folders]
    shapes = [{name: tensor.shape for name, tensor in own.items()} for own in weights]
    common = {name for name in shapes[0] if all(own.get(name) == shapes[0][name] for own in shapes)}
    assert 0 < len(common) < len(shapes[0])
    for own, update in zip(weights, updates, strict=True):
        for name, tensor in own.items():
            if name in common:
                mean = sum(other[name].astype(np.float64) for other in updates) / 3
                np.testing.assert_array_equal(tensor.numpy(), mean.astype(np.float32), err_msg=name)
            else:
                np.testing.assert_array_equal(tensor.numpy(), update[name], err_msg=name)
    # sites 1 and 2 have equal networks, but only what site 3 has as well is shared
    alone = set(shapes[0]) - common
    assert all(shapes[0][name] == shapes[1][name] for name in alone)
    for site in SITES:
        assert f"site {site} shares" in output


def test_with_cohorts_sites_that_are_alike_share_more(workspace: Workspace) -> None:
    words = ("train", "901 902 903", "2d", 1, *SHORT, "--rounds", 1, "--asym_cohorts")
    workspace.succeed("run", *words)
    first, second, third = (
        workspace.checkpoint(site, fold=1, trainer="RecordingTrainer")["network_weights"] for site in SITES
    )
    assert all((first[name] == second[name]).all() for name in first)
    differing = [name for name in first if name not in third or third[name].shape != first[name].shape]
    assert differing


def test_every_sites_own_network_predicts(workspace: Workspace) -> None:
    for site in SITES:
        output = workspace.folder / f"prediction of {site}"
        images = workspace.raw / site / "imagesTs"
        workspace.nnunet("nnUNetv2_predict", "-i", images, "-o", output, "-d", site, "-c", "2d", "-f", 0, "-tr",
                         "RecordingTrainer", "-device", "cpu", "--disable_tta", "-npp", 0, "-nps", 0)  # fmt: skip
        assert len(list(output.glob("*.nii.gz"))) == 1


def test_a_federation_that_would_share_nothing_is_refused(workspace: Workspace) -> None:
    status, output = workspace.call(
        "run", "train", "901 902 903", "2d", 2, *SHORT, "--rounds", 1, "--keep_local", "encoder|decoder"
    )
    assert status == 1
    assert "no tensor in common" in output
    assert "correct --keep_local" in output
    # these plans were made smaller by hand
    assert f"The plans of site {SITES[0]} were changed after its federation made them" in output
