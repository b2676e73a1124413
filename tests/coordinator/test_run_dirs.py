"""Where a training is kept: never where another one is, and found again by whoever goes on or evaluates."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from fednnunet.coordinator.exchange import Averaging
from fednnunet.coordinator.run_dirs import check_run_folder, check_sites_let_go, run_folder
from fednnunet.coordinator.run_folder import FoldFolder, RunDescription, SharedTensors
from fednnunet.errors import FednnUNetError
from fednnunet.folds import Fold
from fednnunet.protocol.messages import Hello, Schedule, Task
from fednnunet.weights.layout import TensorSpec

MODEL = "nnUNetTrainer__nnUNetPlans__2d"


def _hellos(*sites: str, model: str | None = MODEL, digest: str = "plans", task: Task = "train") -> list[Hello]:
    return [
        Hello(site=site, task=task, method="FFE", cases=5, versions={}, labels={}, channels={}, model=model,
              plans_digest=digest, fold="0")
        for site in sites
    ]  # fmt: skip


def _keep(run_dir: Path, sites: Sequence[str] = ("A", "B"), *, fold: Fold = 0, finished: bool = False) -> None:
    description = RunDescription(
        run="one",
        fold=fold,
        sites=dict.fromkeys(sites, 1),
        plans=dict.fromkeys(sites, "plans"),
        models=[MODEL],
        schedule=Schedule(rounds=9, local_epochs=1, iterations_per_epoch=2, val_iterations_per_epoch=2),
        averaging=Averaging("float32", "mean", "none", None),
        flags={},
        shared=[SharedTensors(sites=list(sites), tensors=[TensorSpec("x", (1,), "float32")])],
        finished=finished,
    )
    FoldFolder.of(run_dir, fold).begin(description)


def test_each_network_and_set_of_sites_has_a_folder_of_its_own_whatever_order_the_sites_come_in(tmp_path: Path) -> None:
    federations = [
        _hellos("A", "B"),
        _hellos("A", "B", "C"),
        _hellos("A", "BC"),
        _hellos("A", "B", model="nnUNetTrainer__nnUNetPlans__3d_fullres"),
        _hellos("A", "B", model="other__nnUNetPlans__2d"),
        _hellos("A", "B", model="nnUNetTrainer__bs4__2d"),
        _hellos("A", "B", model="../../nnUNetTrainer__nnUNetPlans__2d"),
    ]
    folders = [run_folder(tmp_path, hellos, may_be_fewer=False) for hellos in federations]
    assert len(set(folders)) == len(federations)
    assert all(folder.parent == tmp_path and ".." not in folder.name for folder in folders)
    assert run_folder(tmp_path, _hellos("B", "A"), may_be_fewer=False) == folders[0]
    assert run_folder(tmp_path, _hellos("A", "B", task="evaluate"), may_be_fewer=True) == folders[0]
    assert run_folder(tmp_path, _hellos("A", model=None, task="evaluate"), may_be_fewer=True) == tmp_path / "evaluate"


def test_who_goes_on_with_fewer_sites_finds_the_training_if_only_one_can_be_meant(tmp_path: Path) -> None:
    of_three = run_folder(tmp_path, _hellos("A", "B", "C"), may_be_fewer=False)
    _keep(of_three, "ABC")
    assert run_folder(tmp_path, _hellos("A", "C"), may_be_fewer=True) == of_three
    assert run_folder(tmp_path, _hellos("A", "C"), may_be_fewer=False) != of_three
    assert run_folder(tmp_path, _hellos("A", "D"), may_be_fewer=True) != of_three
    _keep(run_folder(tmp_path, _hellos("A", "B", "D"), may_be_fewer=False), "ABD")
    with pytest.raises(FednnUNetError, match="choose one of them with --run_dir"):
        run_folder(tmp_path, _hellos("A", "B"), may_be_fewer=True)


@pytest.mark.parametrize(
    ("hellos", "folds", "flag", "refusal"),
    [
        (_hellos("A", "B"), [0], None, "fold_0 contains a training that is finished: .*--c, or give --overwrite"),
        (_hellos("A", "B"), [0], "--c", None),
        (_hellos("A", "B"), [0], "--overwrite", None),
        (_hellos("A", "B"), [1], None, "fold_1 contains a training that is not finished, with 0 of 9 rounds done: con"),
        (_hellos("A", "B"), [2], None, None),
        (_hellos("A", "B"), [2, 3, 0], None, "fold_0 contains a training that is finished"),
        (_hellos("A", "B"), [0, 1, 2], "--c", None),
        (_hellos("A"), [0], "--c", None),
        (_hellos("A"), [2], None, "fold_0 contains a training at the sites A, B, not at A"),
        (_hellos("A", "C"), [0], "--c", "at the sites A, B, not at A, C"),
        (_hellos("A", "B", model="t__p__3d"), [2], "--overwrite", f"of {MODEL}, not of t__p__3d"),
        (_hellos("A", "B", digest="new"), [2], None, "with other plans than site A has now"),
        (_hellos("A", "C", digest="new"), [0, 1], "--overwrite", None),
    ],
)
def test_what_is_kept_is_neither_replaced_nor_mixed_with_another_training(
    hellos: list[Hello], folds: list[Fold], flag: str | None, refusal: str | None, tmp_path: Path
) -> None:
    _keep(tmp_path, fold=0, finished=True)
    _keep(tmp_path, fold=1)
    (tmp_path / "fold_0_until_2026-01-01_00-00-00").mkdir()

    def check() -> None:
        check_run_folder(tmp_path, folds, hellos, resume=flag == "--c", overwrite=flag == "--overwrite")

    if refusal is None:
        check()
        return
    with pytest.raises(FednnUNetError, match=refusal):
        check()


def test_what_a_site_has_finished_elsewhere_is_told_before_any_fold_is_trained(tmp_path: Path) -> None:
    _keep(tmp_path, fold=0, finished=True)
    _keep(tmp_path, fold=1)
    first, second = _hellos("A", "B")
    hellos = [first, second.model_copy(update={"finished": ["0", "1"]})]
    folds: list[Fold] = [0, 1, 2]
    check_sites_let_go(tmp_path, folds, hellos, resume=True, overwrite=False)  # both are of this training
    check_sites_let_go(tmp_path, [2], hellos, resume=False, overwrite=False)
    with pytest.raises(
        FednnUNetError, match=r"Site B has a finished training of fold 0 .*that site's node --overwrite"
    ):
        check_sites_let_go(tmp_path, folds, hellos, resume=False, overwrite=True)
    with_stocks = [first, second.model_copy(update={"finished": ["0", "2"]})]
    with pytest.raises(FednnUNetError, match="Site B has a finished training of fold 2"):
        check_sites_let_go(tmp_path, folds, with_stocks, resume=True, overwrite=False)


def test_a_damaged_training_is_replaced_on_demand_only(tmp_path: Path) -> None:
    _keep(tmp_path)
    for name in ("run.json", "run_copy.json"):
        (tmp_path / "fold_0" / name).write_text("{")
    with pytest.raises(FednnUNetError, match="restore the file from a backup"):
        check_run_folder(tmp_path, [0], _hellos("A", "B"), resume=False, overwrite=False)
    check_run_folder(tmp_path, [0], _hellos("A", "B"), resume=False, overwrite=True)
