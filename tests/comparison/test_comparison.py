"""The comparison with commands that are stubs: which are run, with which words, and which are not run again."""

import csv
import json
from pathlib import Path

import pytest

from fednnunet.cli.comparison import parse_compare
from fednnunet.comparison import comparison
from fednnunet.comparison.comparison import run_comparison
from fednnunet.comparison.settings import ComparisonSettings
from fednnunet.demo.hospitals import write_hospitals
from fednnunet.errors import FednnUNetError
from fednnunet.launcher.steps import JobFailed, Step

A, B, C = "Dataset901_HospitalA", "Dataset902_HospitalB", "Dataset903_HospitalC"
DICE = {"local": 0.5, "asym": 0.6, "ffe": 0.7, "centralized": 0.8}


class Commands:
    """Stands for the processes: writes down the jobs, does what others read, fails where it is told to."""

    def __init__(self):
        self.jobs = []
        self.failing = {}

    @property
    def names(self):
        return [job.name for job in self.jobs]

    def run(self, step, *jobs, done):
        for job in jobs:
            self.jobs.append(job)
            if error := self.failing.get(job.name):
                raise error if isinstance(error, BaseException) else JobFailed(job, "exit status 1", error)
            if job.words[0] == "evaluate":
                self._evaluate(job)
            done(job)

    def job(self, name):
        return next(job for job in self.jobs if job.name == name)

    def _evaluate(self, job):
        words = list(job.words)
        out = Path(words[words.index("-o") + 1])
        for dataset in words[1].split():
            (out / dataset).mkdir(parents=True, exist_ok=True)
            with (out / dataset / "cases.csv").open("w", newline="") as file:
                rows = csv.writer(file)
                rows.writerow(["case", "label", "dice", "hd95", "assd", "nsd"])
                cases = ["p"]
                if "-l" in words:
                    labels = Path(words[words.index("-l") + 1])
                    cases = [path.name.removesuffix(".nii.gz") for path in labels.iterdir() if path.exists()]
                for case in cases:
                    rows.writerow([case, "organ", self.dice(job), 3.0, 1.0, ""])

    def dice(self, job):
        """Return what a model achieves: less elsewhere than at home, and more with a higher seed."""
        words = job.name.split()
        seed = int(words[words.index("seed") + 1]) if "seed" in words else 0
        return DICE[words[1].partition("_")[0]] + seed / 100 - (0.1 if words[0] == "elsewhere" else 0)


@pytest.fixture
def commands(monkeypatch):
    stub = Commands()
    monkeypatch.setattr(Step, "run", lambda step, *jobs, done: stub.run(step, *jobs, done=done))
    return stub


@pytest.fixture
def folders(tmp_path, monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(name, str(tmp_path / name))
    write_hospitals(tmp_path / "nnUNet_raw", training_cases=5, test_cases=1, resolution=0.2)
    return tmp_path


def arguments(*words) -> ComparisonSettings:
    return parse_compare(["901 902", "2d", "0", "-device", "cpu", *words])


def jobs_that_test(method):
    """Return the names of the jobs that test the two models of a method."""
    return [f"{what} {method} {site}" for what in ("evaluation", "elsewhere") for site in (A, B)]


def out(folders):
    return folders / "nnUNet_results" / "fednnunet_runs" / "compare_901+902_2d_0"


def test_all_methods_are_trained_and_tested(folders, commands, capsys):
    assert run_comparison(arguments("--external", "903", "--rounds", "3", "-gpu_memory_target", "2")) == 0
    assert commands.names == [
        *("plans own", "plans common", "plans pooled"),
        *(f"local {A}", f"local {B}", *jobs_that_test("local")),
        *("asym", *jobs_that_test("asym")),
        *("ffe", f"evaluation ffe {A}"),
        *("centralized", "evaluation centralized Dataset999_Pooled"),
    ]
    assert [commands.job(f"plans {name}").words for name in ("own", "common", "pooled")] == [
        ["plan_and_preprocess", datasets, "2d", *asym, "-gpu_memory_target", "2.0"]
        for datasets, asym in ((f"{A} {B}", ["--asym"]), (f"{A} {B}", []), ("Dataset999_Pooled", []))
    ]
    assert [commands.job(f"evaluation {name}").words[1] for name in (f"local {A}", f"asym {B}", f"ffe {A}")] == [
        f"{A} {C}",
        f"{B} {C}",
        f"{A} {B} {C}",
    ]
    content = json.loads((out(folders) / "comparison.json").read_text())
    found = {name: method["datasets"] for name, method in content["methods"].items()}
    assert {name: [found[name][site]["dice"]["mean"] for site in (A, B, C)] for name in found} == {
        name: [dice] * 3 for name, dice in DICE.items()
    }
    assert "Centralized" in capsys.readouterr().out


def test_all_methods_train_the_same_iterations_and_only_federations_average(folders, commands):
    schedule = ["--rounds", "3", "--local_epochs", "2", "--iterations_per_epoch", "4", "--save_every", "2"]
    run_comparison(arguments(*schedule, "--aggregation", "median", "--proximal_mu", "0.1", "--asym_cohorts"))
    trainings = {job.name: list(job.words) for job in commands.jobs if job.words[0] == "train"}
    for words in trainings.values():
        assert words[2:14] == ["2d", "0", "-device", "cpu", *schedule]
    assert {name for name, words in trainings.items() if "median" in words and "0.1" in words} == {"asym", "ffe"}
    assert {name for name, words in trainings.items() if "--asym_cohorts" in words} == {"asym"}
    # weights of a federation of one travel exactly, so it is nnU-Net's own training
    exact = {name for name, words in trainings.items() if words[words.index("--save_every") + 2 :][1:2] == ["float32"]}
    assert exact == {f"local {A}", f"local {B}", "centralized"}


def test_plans_and_results_do_not_mix(folders, commands):
    run_comparison(arguments())
    kept = {
        job.name: tuple(
            Path(job.environment[f"nnUNet_{kind}"]).relative_to(out(folders)).as_posix()
            for kind in ("preprocessed", "results")
        )
        for job in commands.jobs
        if job.words[0] == "train"
    }
    assert kept == {
        f"local {A}": ("preprocessed/own", "results/local"),
        f"local {B}": ("preprocessed/own", "results/local"),
        "asym": ("preprocessed/own", "results/asym"),
        "ffe": ("preprocessed/common", "results/ffe"),
        "centralized": ("preprocessed/pooled", "results/centralized"),
    }


def test_with_tensors_that_stay_at_home_each_sites_own_model_is_tested(folders, commands):
    run_comparison(arguments("--methods", "ffe", "--keep_local", "seg_layers"))
    assert commands.names == ["plans common", "ffe", *jobs_that_test("ffe")]


def test_what_is_done_is_not_done_again_and_what_was_begun_is_continued(folders, commands):
    commands.failing["ffe"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_comparison(arguments("--methods", "local,ffe"))
    assert commands.job("ffe").words[-1] == "--overwrite"
    kept = out(folders) / "runs" / "ffe" / "fold_0"
    kept.mkdir(parents=True)
    (kept / "run.json").touch()
    commands.jobs.clear()
    with pytest.raises(KeyboardInterrupt):
        run_comparison(arguments("--methods", "local,ffe"))
    assert commands.job("ffe").words[-1] == "--overwrite"  # no model was kept yet
    (kept / "model_000000.npz").touch()
    commands.jobs.clear()
    commands.failing.clear()
    assert run_comparison(arguments("--methods", "local,ffe")) == 0
    assert commands.names == ["ffe", f"evaluation ffe {A}"]
    assert commands.job("ffe").words[-1] == "--c"
    commands.jobs.clear()
    assert run_comparison(arguments("--methods", "local,ffe")) == 0
    assert commands.names == []
    # another method, another external dataset and other flags of the evaluation add to what is there
    run_comparison(arguments("--methods", "ffe,centralized", "--external", "903", "--disable_tta"))
    assert commands.names == [
        *("plans pooled", f"evaluation ffe {A}"),
        *("centralized", "evaluation centralized Dataset999_Pooled"),
    ]


def test_a_method_that_fails_is_reported_and_tried_again_while_others_go_on(folders, commands, capsys):
    commands.failing["asym"] = "No tensor has the same shape at all sites."
    assert run_comparison(arguments()) == 1
    assert (
        "AsymFedAvg has no results: No tensor has the same shape at all sites (its log is " in capsys.readouterr().out
    )
    assert f"evaluation ffe {A}" in commands.names
    content = json.loads((out(folders) / "comparison.json").read_text())
    assert "No tensor" in content["methods"]["asym"]["failure"]
    commands.failing.clear()
    commands.jobs.clear()
    assert run_comparison(arguments()) == 0
    assert commands.names == ["asym", *jobs_that_test("asym")]


def test_own_plans_that_fail_end_both_methods_that_need_them(folders, commands):
    commands.failing["plans own"] = "no"
    assert run_comparison(arguments("--methods", "local,asym,ffe")) == 1
    assert commands.names == ["plans own", "plans common", "ffe", f"evaluation ffe {A}"]


def test_if_all_methods_fail_it_is_an_error(folders, commands):
    commands.failing["plans own"] = "the disk is full"
    with pytest.raises(FednnUNetError, match="No method has results: the disk is full"):
        run_comparison(arguments("--methods", "local"))


def test_other_flags_or_cases_are_refused(folders, commands):
    run_comparison(arguments("--rounds", "3", "--methods", "ffe"))
    with pytest.raises(FednnUNetError, match="was started with --rounds 3, not 4"):
        run_comparison(arguments("--rounds", "4", "--methods", "ffe"))
    splits = [{"train": ["HospitalA_000"], "val": ["HospitalA_001"]}]
    (folders / "nnUNet_raw" / A / "splits_final.json").write_text(json.dumps(splits))
    with pytest.raises(FednnUNetError, match="was started with the cases and folds "):
        run_comparison(arguments("--rounds", "3", "--methods", "ffe"))
    commands.jobs.clear()
    run_comparison(arguments("--rounds", "4", "--methods", "ffe", "--overwrite"))
    assert commands.names == ["plans common", "ffe", f"evaluation ffe {A}"]


def test_datasets_without_labelled_test_cases_are_told_before_anything_is_trained(folders, commands, caplog):
    for name in (A, C):
        for path in (folders / "nnUNet_raw" / name / "labelsTs").iterdir():
            path.unlink()
    commands.failing["plans common"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        run_comparison(arguments("--methods", "ffe", "--external", "903"))
    assert [record.getMessage() for record in caplog.records] == [
        f"{A} has no labelled test cases in imagesTs and labelsTs: no model is tested on it (--test validation takes "
        "the cases that do not train).",
        f"{C} has no labelled test cases in imagesTs and labelsTs: no model is tested on it.",
    ]
    commands.failing.clear()
    run_comparison(arguments("--methods", "local,ffe", "--external", "903"))
    assert commands.job(f"evaluation ffe {A}").words[1] == B
    assert f"evaluation local {A}" not in commands.names


def test_validation_cases_can_test_the_models(folders, commands):
    run_comparison(arguments("--methods", "ffe", "--test", "validation"))
    raw = out(folders) / "raw" / A
    (fold, *_) = json.loads((raw / "splits_final.json").read_text())
    assert [path.name.removesuffix(".nii.gz") for path in (raw / "labelsTs").iterdir()] == fold["val"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["901 902", "2d", "all", "--test", "validation"], "With FOLD all every case trains"),
        (["901 902", "2d", "7"], "Invalid fold 7: the split has the folds 0 to 4"),
        (["901 902", "2d", "0", "--external", "902"], f"{B} is both a site and external"),
        (["901 902", "2d", "fold_all", "--test", "validation"], "With FOLD fold_all every case trains"),
        (["901 999", "2d", "0"], "No dataset with id 999"),
        (["901 902", "2d", "0", "-tr", "NoTrainer"], "No trainer 'NoTrainer'"),
        (["901 902", "2d_full", "0"], "plans no configuration '2d_full'"),
        (["901 902", "2d", "0", "-pl", "Nobody"], "nnU-Net has no class 'Nobody'"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(folders, commands, words, said):
    with pytest.raises(FednnUNetError, match=said):
        run_comparison(parse_compare([*words, "-device", "cpu"]))
    assert commands.names == []
    assert not (folders / "nnUNet_results").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["--methods", "magic"],
        ["--methods", ","],
        ["--gpus", "0"],
        ["--min_clients", "3"],
        ["--methods", "personal"],
        ["--methods", "ffe --keep_local"],
        ["--methods", "local --keep_local norm"],
        ["--methods", "a=ffe", "a=asym"],
        ["--methods", "ffe --personalize 1", "ffe --personalize 2"],
        ["--seeds", "x"],
        ["--in_process", "--gpus", "0 0"],
    ],
)
def test_flags_that_make_no_sense_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        arguments(*words)
    assert "error:" in capsys.readouterr().err


def test_gpus_are_dealt_to_sites_that_train_at_once(folders, commands, monkeypatch):
    monkeypatch.setattr(comparison.devices, "visible_gpus", lambda environment, count: ["0", "1"])
    monkeypatch.setattr(comparison, "check_device", lambda device: None)
    run_comparison(parse_compare(["901 902", "2d", "0", "--gpus", "1 0", "--methods", "local,ffe"]))
    assert [commands.job(f"local {site}").environment["CUDA_VISIBLE_DEVICES"] for site in (A, B)] == ["1", "0"]
    assert "--gpus 1 0" in " ".join(commands.job("ffe").words)


def test_variants_of_a_method_differ_in_flags_of_their_training_only(folders, commands):
    words = ["local", "ffe", "ffe --optimizer_state local", "FedBN=ffe --keep_local norm", "personal", "centralized"]
    assert run_comparison(arguments("--rounds", "3", "--personalize", "2", "--methods", *words)) == 0
    assert [name for name in commands.names if "evaluation" not in name and "elsewhere" not in name] == [
        *("plans own", "plans common", "plans pooled", f"local {A}", f"local {B}", "ffe"),
        *("ffe_optimizer_state_local", "ffe_keep_local_norm", "ffe personal", "centralized"),
    ]
    common = [word for word in commands.job("ffe").words if "/" not in word and word != "--overwrite"]
    for name, more in (
        ("ffe_optimizer_state_local", ["--optimizer_state", "local"]),
        ("ffe_keep_local_norm", ["--keep_local", "norm"]),
        ("ffe personal", ["--personalize", "2"]),
    ):
        its = [word for word in commands.job(name).words if "/" not in word and word != "--overwrite"]
        assert [word for word in its if word not in common] == more, name
    # the personal models take the training on that is there
    of_run = [
        commands.job(name).words[commands.job(name).words.index("--run_dir") + 1] for name in ("ffe", "ffe personal")
    ]
    assert of_run[0] == of_run[1]
    model = commands.job(f"evaluation ffe_personal_2 {B}").words
    assert Path(model[model.index("-m") + 1]).relative_to(out(folders)).as_posix() == (
        f"results/ffe/{B}/nnUNetTrainer__nnUNetPlans_personal__2d"
    )
    content = json.loads((out(folders) / "comparison.json").read_text())["methods"]
    assert list(content) == ["local", "ffe", "ffe_optimizer_state_local", "FedBN", "personal", "centralized"]
    assert content["FedBN"]["elsewhere"]["others"]["dice"] == {A: 0.6, B: 0.6, "worst": 0.6, "mean": 0.6}
    assert content["ffe"]["elsewhere"]["others"]["dice"][A] == 0.7  # one model for all: its own cases are all of them
    # what a user calls a variant does not matter, nor in which order its flags stand; one more is added
    commands.jobs.clear()
    words = ["Norm=ffe --keep_local norm", "Both=ffe --personalize 2 --keep_local norm", "ffe --weighting cases"]
    assert run_comparison(arguments("--rounds", "3", "--methods", *words)) == 0
    assert commands.names == ["ffe_keep_local_norm personal", *jobs_that_test("ffe_keep_local_norm_personal_2")]


def test_each_method_is_trained_with_each_seed(folders, commands):
    assert run_comparison(arguments("--methods", "local", "ffe", "--seeds", "1", "3", "--in_process")) == 0
    trainings = {job.name: job for job in commands.jobs if job.words[0] == "train"}
    names = [f"local seed {seed} {site}" for seed in (1, 3) for site in (A, B)]
    assert list(trainings) == [*names, "ffe seed 1", "ffe seed 3"]
    for name, job in trainings.items():
        assert job.words[job.words.index("--seed") + 1] == name.split("seed ")[1][0]
        assert list(job.words[-2:]) == ["--in_process", "--overwrite"]
        assert "nnUNet_n_proc_DA" not in job.environment  # a number of processes would undo the seed
    results = [
        Path(job.environment["nnUNet_results"]).relative_to(out(folders)).as_posix() for job in trainings.values()
    ]
    assert results == [
        *["results/local/seed_1"] * 2,
        *["results/local/seed_3"] * 2,
        "results/ffe/seed_1",
        "results/ffe/seed_3",
    ]
    content = json.loads((out(folders) / "comparison.json").read_text())
    assert content["seeds"] == [1, 3]
    found = content["methods"]["ffe"]["datasets"][A]["dice"]
    assert (found["mean"], found["cases"]) == (pytest.approx(0.72), 1)
    (difference,) = (
        row
        for row in content["differences_to_local"]
        if (row["method"], row["test_cases"], row["label"], row["metric"]) == ("ffe", "all sites", "mean", "dice")
    )
    assert (difference["mean"], difference["cases"], difference["seeds"]) == (pytest.approx(0.2), 2, 2)
    # another seed is added, without --in_process, which changes no weights
    commands.jobs.clear()
    assert run_comparison(arguments("--methods", "local", "ffe", "--seeds", "1 2 3")) == 0
    assert [name for name in commands.names if "seed 2" not in name] == []
