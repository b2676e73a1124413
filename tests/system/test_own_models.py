"""Sites that differ: normalization that stays at each site, and models of the sites' own, through the real commands."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from fednnunet.events.event_files import EventReader
from fednnunet.events.events import GainTold, ModelExported
from tests.system.conftest import SITES
from tests.system.workspace import Workspace

pytestmark = pytest.mark.system

COMMAND = (
    "train", "901 902 903", "2d", 3, "-device", "cpu", "--iterations_per_epoch", 1, "--val_iterations_per_epoch", 1,
    "--rounds", 2, "--encoding", "float32", "--keep_local", "norm",
)  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(federation: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The coordinator's folder of a training after which each site trains two models of its own."""
    folder = tmp_path_factory.mktemp("run")
    output = federation.succeed("run", *COMMAND, "--personalize", 2, "--alone", "--run_dir", folder)
    assert "fednnunet audit privacy 902 2d 3 -device cpu" in output
    return folder


def _checkpoint(federation: Workspace, site: str, own: str = "") -> dict[str, object]:
    path = federation.results / site / f"nnUNetTrainer__nnUNetPlans{own}__2d" / "fold_3" / "checkpoint_final.pth"
    checkpoint: dict[str, object] = torch.load(path, map_location="cpu", weights_only=False)  # our own file
    return checkpoint


def test_normalization_stays_at_the_site_and_its_mean_is_exported(federation: Workspace, run_dir: Path) -> None:
    models = [_checkpoint(federation, site)["network_weights"] for site in SITES]
    (exported,) = [
        event for event in EventReader(run_dir / "events.jsonl").new_events() if isinstance(event, ModelExported)
    ]
    assert exported.caution is not None
    state = torch.load(Path(exported.folder) / "fold_3" / "checkpoint_final.pth", weights_only=False)["network_weights"]
    cases = [len(federation.json(site, "splits_final.json")[3]["train"]) for site in SITES]
    for name, tensor in models[0].items():
        if ".norm." in name or ".all_modules.1." in name:
            assert not torch.equal(tensor, models[1][name]), name
            expected = sum(n * model[name].double() for n, model in zip(cases, models, strict=True)) / sum(cases)
            np.testing.assert_array_equal(state[name].numpy(), expected.float().numpy())
        else:
            assert torch.equal(tensor, models[1][name]), name
            assert torch.equal(tensor, state[name]), name


def test_own_models_are_ordinary_ones_and_leave_the_federations_as_it_is(federation: Workspace, run_dir: Path) -> None:
    for site in SITES:
        federated, personal, alone = (_checkpoint(federation, site, own) for own in ("", "_personal", "_alone"))
        assert [each["current_epoch"] for each in (federated, personal, alone)] == [2, 2, 4]
        np.testing.assert_allclose(federated["logging"]["lrs"], [0.01 * (1 - n / 2) ** 0.9 for n in range(2)])
        np.testing.assert_allclose(personal["logging"]["lrs"], [0.01 * (1 - n / 2) ** 0.9 for n in range(2)])
        np.testing.assert_allclose(alone["logging"]["lrs"], [0.01 * (1 - n / 4) ** 0.9 for n in range(4)])
        assert {each["trainer_name"] for each in (federated, personal, alone)} == {"nnUNetTrainer"}
        name = "encoder.stages.0.0.convs.0.conv.weight"
        first, second, third = (each["network_weights"][name] for each in (federated, personal, alone))
        # two steps of at most 0.001 times a gradient that nnU-Net clips to 12
        assert 0 < (first - second).abs().max() < 0.1
        assert (first - third).abs().max() > 0
        folder = federation.results / site / "nnUNetTrainer__nnUNetPlans_personal__2d"
        assert json.loads((folder / "plans.json").read_text())["plans_name"] == "nnUNetPlans_personal"
        assert json.loads((folder / "fold_3" / "validation" / "summary.json").read_text())["metric_per_case"]


def test_every_site_learns_what_the_federation_gave_it(federation: Workspace, run_dir: Path) -> None:
    (told,) = [event for event in EventReader(run_dir / "events.jsonl").new_events() if isinstance(event, GainTold)]
    assert list(told.sites) == list(SITES)
    for site, report in told.sites.items():
        assert report.advice is not None
        summaries = [
            json.loads(
                (
                    federation.results / site / f"nnUNetTrainer__nnUNetPlans{own}__2d/fold_3/validation/summary.json"
                ).read_text()
            )
            for own in ("", "_personal", "_alone")
        ]
        # every case of the made-up hospitals has both labels, so means over cases are nnU-Net's
        for number, gain in enumerate(report.labels.values(), 1):
            expected = [summary["mean"][str(number)]["Dice"] for summary in summaries]
            np.testing.assert_allclose([gain.federated, gain.personal, gain.alone], expected, atol=0.00006)
        folder = federation.results / site / "nnUNetTrainer__nnUNetPlans__2d" / "fold_3"
        content = json.loads((folder / "federation_gain.json").read_text())
        assert len(content["dice_by_case"]["personal"]) == len(summaries[0]["metric_per_case"])
        assert content["reason"] in (folder / "federation_gain.md").read_text()
    assert "Benefit of the federation" in (run_dir / "report.html").read_text(encoding="utf-8")


def test_stock_nnunet_predicts_with_the_personal_model(federation: Workspace, run_dir: Path) -> None:
    images = federation.raw / SITES[1] / "imagesTs"
    output = federation.folder / "personal prediction"
    federation.nnunet(
        "nnUNetv2_predict", "-i", images, "-o", output, "-d", SITES[1], "-c", "2d", "-f", 3,
        "-p", "nnUNetPlans_personal", "-device", "cpu", "-npp", 0, "-nps", 0,
    )  # fmt: skip
    assert len(list(output.glob("*.nii.gz"))) == 1
    words = ("902", "2d", 3, "-p", "nnUNetPlans_personal", "-device", "cpu", "--disable_tta")
    assert "overall" in federation.succeed("run", "evaluate", *words, "--min_cases", 1)


def test_a_site_measures_what_the_federations_model_and_its_own_tell(federation: Workspace, run_dir: Path) -> None:
    output = federation.folder / "privacy audit"
    words = ("audit", "privacy", "902", "2d", 3, "-device", "cpu", "--test_cases", "-o", output, "--json")
    status, printed = federation.fednnunet(*words)
    assert status == 0, printed
    report = json.loads((output / "privacy_audit.json").read_text())
    assert json.loads(printed) == report
    split = federation.json(SITES[1], "splits_final.json")[3]
    tests = [f"imagesTs/{path.name.split('.')[0]}" for path in (federation.raw / SITES[1] / "labelsTs").iterdir()]
    assert list(report["models"]) == ["federated", "personal", "alone"]
    for model in report["models"].values():
        assert [case["case"] for case in model["cases"]] == [*sorted(split["train"]), *sorted(split["val"]), *tests]
        assert [case["trained"] for case in model["cases"]].count(True) == len(split["train"])
        assert all(0 < case["loss"] < 5 and 0 <= case["dice"] <= 1 for case in model["cases"])
        assert 0 <= model["by_loss"]["auc"]["value"] <= 1
        assert model["result"] == "too few cases"
    losses = [[case["loss"] for case in model["cases"]] for model in report["models"].values()]
    assert losses[0] != losses[1] != losses[2]
    assert (output / "privacy_audit.png").is_file()
