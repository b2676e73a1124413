import os

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.launcher.devices import (
    available_cores,
    deal_gpus,
    planning_processes,
    planning_share,
    training_shares,
    visible_gpus,
)


@pytest.mark.parametrize(
    ("listed", "count", "visible"),
    [
        (None, 3, ["0", "1", "2"]),
        (None, 0, []),
        ("2,5", 2, ["2", "5"]),
        (" 5, 2 ", 2, ["5", "2"]),
        ("GPU-8932f937-d72c", 1, ["GPU-8932f937-d72c"]),
        ("0,1,9", 2, ["0", "1"]),
        ("", 0, []),
        ("-1", 0, []),
    ],
)
def test_visible_gpus_are_those_that_cuda_counts(listed, count, visible):
    environment = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert visible_gpus(environment, count) == visible


@pytest.mark.parametrize(
    ("visible", "sites", "chosen", "dealt"),
    [
        (["0", "1"], 3, None, ["0", "1", "0"]),
        (["0"], 2, None, ["0", "0"]),
        (["4", "5"], 3, None, ["4", "5", "4"]),
        (["0", "1"], 3, ["0", "1", "1"], ["0", "1", "1"]),
        (["4", "5"], 2, ["1", "0"], ["5", "4"]),
        (["GPU-a", "GPU-b"], 2, ["GPU-b", "0"], ["GPU-b", "GPU-a"]),
    ],
)
def test_gpus_are_dealt_round_robin_or_as_chosen(visible, sites, chosen, dealt):
    assert deal_gpus(visible, sites, chosen) == dealt


@pytest.mark.parametrize(
    ("visible", "chosen", "message"),
    [
        ([], None, "-device cpu"),
        (["0", "1"], ["0", "2"], "invalid GPU 2; the visible ones are 0 to 1."),
        (["4", "5"], ["4", "5"], r"invalid GPU 4; the visible ones are 0 to 1 \(4, 5\)"),
        (["0"], ["-1", "0"], "invalid GPU -1; the visible ones are 0."),
    ],
)
def test_a_gpu_that_is_not_there_is_refused_with_what_is(visible, chosen, message):
    with pytest.raises(FednnUNetError, match=message):
        deal_gpus(visible, 2, chosen)


@pytest.mark.parametrize(
    ("cores", "sites", "threads", "augmentation", "processes"),
    [
        (8, 2, "4", "4", "4"),
        (8, 3, "2", "2", "2"),
        (4, 3, "1", "0", "1"),
        (2, 5, "1", "0", "1"),
        (64, 2, "32", "32", "32"),
    ],
)
def test_cores_are_divided_among_sites_that_train_on_the_cpu(cores, sites, threads, augmentation, processes):
    shares = training_shares("cpu", None, sites, cores, {})
    assert len(shares) == sites
    for share in shares:
        assert share.environment == {
            "OMP_NUM_THREADS": threads,
            "nnUNet_n_proc_DA": augmentation,
            "nnUNet_def_n_proc": processes,
        }


@pytest.mark.parametrize(
    ("cores", "augmentation", "processes"), [(2, "1", "1"), (16, "8", "8"), (20, "10", "8"), (64, "12", "8")]
)
def test_on_gpus_nobody_gets_more_workers_than_nnunet_would_start(cores, augmentation, processes):
    first, second = training_shares("cuda", ["3", "1"], 2, cores, {})
    assert first.environment == {
        "CUDA_VISIBLE_DEVICES": "3",
        "nnUNet_n_proc_DA": augmentation,
        "nnUNet_def_n_proc": processes,
    }
    assert second.environment["CUDA_VISIBLE_DEVICES"] == "1"


def test_what_the_user_has_set_stands_but_for_the_gpu_which_is_dealt():
    user = {"OMP_NUM_THREADS": "7", "nnUNet_n_proc_DA": "6", "nnUNet_def_n_proc": "5", "CUDA_VISIBLE_DEVICES": "0,1"}
    assert training_shares("cpu", None, 1, 8, user)[0].environment == {}
    assert training_shares("cuda", ["1"], 1, 8, user)[0].environment == {"CUDA_VISIBLE_DEVICES": "1"}
    assert planning_share(1, 8, user).environment == {}


def test_descriptions_say_what_is_shared():
    assert [share.description for share in training_shares("cuda", ["0", "1", "1"], 3, 9, {})] == [
        "GPU 0, 3 CPU cores",
        "GPU 1 (shared by 2 sites), 3 CPU cores",
        "GPU 1 (shared by 2 sites), 3 CPU cores",
    ]
    assert training_shares("cpu", None, 3, 2, {})[0].description == "cpu, 2 CPU cores for all 3 sites"
    assert training_shares("mps", None, 2, 3, {})[0].description == "mps, 1 CPU core"


@pytest.mark.parametrize("cores", [1, 2, 64, 256])
def test_planning_never_sets_augmentation_to_zero_which_the_planner_takes_for_threads(cores):
    environment = planning_share(3, cores, {}).environment
    assert int(environment["nnUNet_n_proc_DA"]) >= 1
    assert int(environment["nnUNet_def_n_proc"]) <= 8
    assert int(environment["OMP_NUM_THREADS"]) * int(environment["nnUNet_def_n_proc"]) <= max(1, cores // 3)


@pytest.mark.parametrize(("share", "counts"), [(1, [1, 1, 1]), (6, [6, 4, 4]), (32, [8, 4, 4])])
def test_preprocessing_gets_nnunets_processes_but_no_more_than_its_cores(share, counts):
    assert planning_processes(["2d", "3d_fullres", "3d_cascade_fullres"], share) == counts


def test_available_cores_respect_the_affinity():
    assert 1 <= available_cores() <= (os.cpu_count() or 1)
