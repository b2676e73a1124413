import shlex
from pathlib import Path

import pytest

from fednnunet.cli.demo import parse_demo
from fednnunet.demo.demo import _Demo, run_demo
from fednnunet.demo.hospitals import write_hospitals
from fednnunet.errors import FednnUNetError


def parse(*words):
    return parse_demo(words)


def make(tmp_path, *words):
    demo = _Demo(parse("--out", str(tmp_path), "-device", "cpu", *words))
    demo.datasets = write_hospitals(tmp_path / "nnUNet_raw", training_cases=1, test_cases=1, resolution=0.2)
    return demo


def test_defaults_need_no_argument():
    arguments = parse()
    assert (arguments.out, arguments.seed, arguments.three_dimensional) == (Path("fednnunet_demo"), 0, False)
    assert arguments.device is None


def test_a_folder_with_anything_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(FednnUNetError, match=r"is not empty: remove it, or choose another folder with --out\."):
        run_demo(parse("--out", str(tmp_path), "-device", "cpu"))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FednnUNetError, match="cannot be created"):
        run_demo(parse("--out", str(tmp_path / "file"), "-device", "cpu"))


def test_data_only_leaves_three_raw_datasets_and_says_what_to_set(tmp_path, capsys):
    assert run_demo(parse("--out", str(tmp_path / "my data"), "-device", "cpu", "--data-only")) == 0
    raw = tmp_path / "my data" / "nnUNet_raw"
    assert sorted(path.name[:10] for path in raw.iterdir()) == ["Dataset901", "Dataset902", "Dataset903"]
    last_line = capsys.readouterr().out.splitlines()[-1]
    assert f"nnUNet_raw={raw}" in shlex.split(last_line)
    assert not any((tmp_path / "my data" / "nnUNet_preprocessed").iterdir())


def test_a_gpu_that_is_not_there_is_told_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(FednnUNetError, match=r"No GPU is visible to PyTorch: .* -device cpu"):
        run_demo(parse("--out", str(tmp_path / "out"), "-device", "cuda"))
    assert not (tmp_path / "out").exists()


def test_the_gpu_is_used_if_there_is_one(tmp_path, monkeypatch):
    for there, device in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr("torch.cuda.is_available", lambda there=there: there)
        assert _Demo(parse()).device == device


def test_all_sites_plan_and_train_together_then_each_alone_with_the_same_schedule(tmp_path):
    demo = make(tmp_path, "--rounds", "7", "--iterations_per_epoch", "3")
    assert demo.planning().words == ("plan_and_preprocess", "901 902 903", "2d")
    together, alone = demo.training(), demo.own_trainings()
    assert together.words[:4] == ("train", "901 902 903", "2d", "0")
    assert [job.words[1] for job in alone] == ["901", "902", "903"]
    assert {tuple(job.words[2:]) for job in (together, *alone)} == {
        (
            *("2d", "0", "-device", "cpu", "--rounds", "7", "--iterations_per_epoch", "3"),
            *("--val_iterations_per_epoch", "4"),
        )
    }


def test_only_what_sites_do_together_is_masked(tmp_path):
    demo = make(tmp_path, "--secure")
    assert [job.words.count("--secure") for job in (demo.planning(), demo.training(), *demo.own_trainings())] == [
        *(1, 1),
        *(0, 0, 0),
    ]


def test_own_models_share_plans_but_have_results_of_their_own(tmp_path):
    demo = make(tmp_path)
    together, alone = demo.training().environment, demo.own_trainings()[0].environment
    assert together["nnUNet_preprocessed"] == alone["nnUNet_preprocessed"] == str(tmp_path / "nnUNet_preprocessed")
    assert together["nnUNet_results"] == str(tmp_path / "nnUNet_results")
    assert alone["nnUNet_results"] == str(tmp_path / "own_models")
    assert len({job.logs for job in (demo.planning(), demo.training(), *demo.own_trainings())}) == 5


def test_volumes_are_planned_as_3d_fullres(tmp_path):
    assert make(tmp_path, "--3d").planning().words[-1] == "3d_fullres"
