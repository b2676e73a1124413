import pytest

from fednnunet.cli.arguments import parse_client, parse_run, parse_server
from fednnunet.settings.node import EvaluationSettings, PlanningSettings, TrainingSettings


@pytest.mark.parametrize(
    "words",
    [
        "train 511 3d_fullres 0 --port 9000 -device cpu",
        "--port 9000 train 511 3d_fullres 0 -device cpu",
        "train --port 9000 -device cpu 511 3d_fullres 0",
        "train 511 --port 9000 3d_fullres -device cpu 0",
    ],
)
def test_port_and_flags_may_stand_anywhere(words: str) -> None:
    command = parse_client(words.split())
    arguments = command.node
    assert isinstance(arguments, TrainingSettings)
    assert (arguments.task, arguments.dataset, arguments.configuration, arguments.fold) == (
        "train",
        "511",
        "3d_fullres",
        "0",
    )
    assert (command.connection.port, arguments.device, command.connection.host) == (9000, "cpu", "127.0.0.1")


@pytest.mark.parametrize(
    ("words", "dataset", "configurations", "explicit"),
    [
        ("511 3d_fullres", "511", ["3d_fullres"], True),
        ("511 --port 1 3d_fullres", "511", ["3d_fullres"], True),
        ("511", "511", ["2d", "3d_fullres", "3d_lowres"], False),
        ("-d 511 -c 2d 3d_lowres", "511", ["2d", "3d_lowres"], True),
        ("-d 511", "511", ["2d", "3d_fullres", "3d_lowres"], False),
        ("511 2d -c 3d_lowres", "511", ["2d", "3d_lowres"], True),
    ],
)
def test_both_spellings_of_planning_mean_the_same(
    words: str, dataset: str, configurations: list[str], explicit: bool
) -> None:
    node = parse_client(["plan_and_preprocess", *words.split()]).node
    assert isinstance(node, PlanningSettings)
    assert (node.dataset, list(node.configurations), node.explicit_configurations) == (
        dataset,
        configurations,
        explicit,
    )


@pytest.mark.parametrize(
    "words",
    [
        ["plan_and_preprocess", "-d", "511", "512"],
        ["plan_and_preprocess"],
        ["train", "511", "3d_fullres"],
        ["train", "511", "3d_fullres", "0", "--port", "0"],
        ["train", "511", "3d_fullres", "0", "--unknown"],
        ["train", "511", "3d_fullres", "0", "--sites", "sites.toml"],
        ["fly", "511"],
        [],
    ],
)
def test_wrong_client_command_lines_are_usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        parse_client(words)
    assert caught.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_server_takes_the_fold_before_or_after_its_flags() -> None:
    for words in ("train --num_clients 3 0 --port 9000", "train 0 --port 9000 --num_clients 3"):
        command = parse_server(words.split())
        settings = command.coordinator
        assert (settings.fold, settings.num_clients, settings.rounds) == ("0", 3, None)
        assert command.listening.port == 9000
    assert parse_server(["train", "--num_clients", "2"]).coordinator.fold is None


def test_run_takes_one_value_per_site() -> None:
    words = ["plan_and_preprocess", "511 512 513", "2d", "--gpu_memory_target", "8 11 8", "-gpu_memory_target", "4"]
    arguments = parse_run(words)
    assert arguments.datasets == ["511", "512", "513"]
    assert arguments.gpu_memory_targets == ("8", "11", "8")
    assert isinstance(node := arguments.nodes[0], PlanningSettings)
    assert node.gpu_memory_target == 4.0
    with pytest.raises(SystemExit):
        parse_run(["train", "511 512 513", "2d", "0", "--gpus", "0 1"])


@pytest.mark.parametrize("name", ["Dataset999_FedNNUNet", "Dataset001_a-b_3"])
def test_the_model_bears_the_name_of_a_dataset_of_nnunet(name: str) -> None:
    assert parse_server(["train", "--num_clients", "3", "--model_name", name]).coordinator.model_name == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "Prostate",
        "Dataset000_A",
        "Dataset99_A",
        "Dataset1000_A",
        "Dataset001_",
        "Dataset001_../A",
        "Dataset001_A\n",
    ],
)
def test_a_name_that_is_no_dataset_of_nnunet_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_server(["train", "--num_clients", "3", "--model_name", name])
    assert "give one such as Dataset999_FedNNUNet" in capsys.readouterr().err


def test_every_node_evaluates_the_model_that_run_names() -> None:
    words = ["evaluate", "511 512", "2d", "all", "-m", "model", "-o", "out", "--nsd_tolerance", "2", "--min_cases", "1"]
    arguments = parse_run([*words, "-device", "cpu", "--disable_tta", "--checkpoint", "checkpoint_best.pth"])
    assert arguments.coordinator.nsd_tolerance == 2
    for node, dataset in zip(arguments.nodes, ("511", "512"), strict=True):
        assert isinstance(node, EvaluationSettings)
        assert node.dataset == dataset
        assert (str(node.model), str(node.output), node.min_cases) == ("model", "out", 1)
        assert (node.checkpoint, node.disable_tta, node.step_size) == ("checkpoint_best.pth", True, 0.5)
    assert isinstance(own := parse_client(["evaluate", "511", "2d", "0"]).node, EvaluationSettings)
    assert own.min_cases == 5
    assert parse_server(["evaluate", "--num_clients", "2"]).coordinator.nsd_tolerance is None


def test_a_folder_of_images_belongs_to_one_site(capsys: pytest.CaptureFixture[str]) -> None:
    parse_run(["evaluate", "511", "2d", "0", "-i", "images", "-l", "labels"])
    with pytest.raises(SystemExit):
        parse_run(["evaluate", "511 512", "2d", "0", "-i", "images"])
    assert "cases of one site" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        parse_server(["evaluate", "--num_clients", "2", "--nsd_tolerance", "0"])
