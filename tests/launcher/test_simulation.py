import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fednnunet.cli.arguments import parse_client, parse_run, parse_server
from fednnunet.errors import FednnUNetError
from fednnunet.launcher import simulation
from fednnunet.launcher.simulation import (
    client_command,
    make_log_dir,
    nodes_of,
    run_simulation,
    server_command,
    site_names,
)

PROGRAM = [sys.executable, "-m", "fednnunet"]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch):
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_def_n_proc", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def parsed(*words):
    settings = parse_run(words)
    return replace(settings, port=settings.port or 4711)


def server_of(settings, progress_file):
    coordinator = replace(settings.coordinator, progress_file=Path(progress_file))
    return server_command(replace(settings, coordinator=coordinator))


def client_of(settings, index, cores=None):
    return client_command(replace(settings, nodes=nodes_of(settings, cores)), index)


ADDRESS = ["--host", "127.0.0.1", "--port", "4711"]


def test_training_commands_hand_each_flag_to_the_process_that_knows_it():
    arguments = parsed(
        *["train", "511 512", "3d_fullres", "all", "-tr", "nnUNetTrainer_5epochs", "--rounds", "5", "--npz"],
        *["-device", "cpu", "--c", "--host", "127.0.0.1"],
    )
    assert server_of(arguments, "/a folder/events.jsonl") == [
        *[*PROGRAM, "server", "train", "--num_clients", "2", "all", *ADDRESS],
        *["--rounds", "5", "--c", "--progress_file", "/a folder/events.jsonl"],
    ]
    assert client_of(arguments, 1) == [
        *[*PROGRAM, "client", "train", "512", "3d_fullres", "all", *ADDRESS],
        *["-tr", "nnUNetTrainer_5epochs", "--npz", "--c", "-device", "cpu"],
    ]


def test_planning_commands_name_configurations_only_if_the_user_did():
    arguments = parsed("plan_and_preprocess", "511 512", "--gpu_memory_target", "8 11.5", "-pl", "nnUNetPlannerResEncM")
    assert client_of(arguments, 1, cores=4) == [
        *[*PROGRAM, "client", "plan_and_preprocess", "512", *ADDRESS, "-npfp", "2"],
        *["-pl", "nnUNetPlannerResEncM", "-gpu_memory_target", "11.5", "-np", "2", "2", "2"],
    ]
    named = parsed("plan_and_preprocess", "511 512", "2d", "-np", "3", "-npfp", "6")
    assert client_of(named, 0, cores=4) == [
        *[*PROGRAM, "client", "plan_and_preprocess", "511", *ADDRESS, "-npfp", "6", "-c", "2d", "-np", "3"]
    ]
    all_three = parsed("plan_and_preprocess", "511", "-c", "2d", "3d_fullres", "3d_lowres")
    words = client_of(all_three, 0, cores=64)
    assert words[words.index("-c") :] == ["-c", "2d", "3d_fullres", "3d_lowres", "-np", "8", "4", "8"]


def test_fingerprint_commands_take_the_datasets_from_either_spelling(monkeypatch):
    arguments = parsed("extract_fingerprint", "-d", "511", "512", "--verify_dataset_integrity")
    command = [*PROGRAM, "client", "extract_fingerprint", "512", *ADDRESS]
    assert client_of(arguments, 1, cores=6) == [*command, "-np", "3", "--verify_dataset_integrity"]
    monkeypatch.setenv("nnUNet_def_n_proc", "8")
    assert client_of(arguments, 1, cores=6) == [*command, "--verify_dataset_integrity"]  # 8 is the node's default
    assert server_of(arguments, "e")[:7] == [*PROGRAM, "server", "extract_fingerprint", "--num_clients", "2"]


@pytest.mark.parametrize(
    "words",
    [
        ["train", "511 512", "2d", "0", "--rounds", "2", "--local_epochs", "3", "-p", "P", "--val", "-num_gpus", "1"],
        ["train", "Dataset511_A", "3d_lowres", "fold_all", "--iterations_per_epoch", "4", "--disable_checkpointing"],
        ["plan_and_preprocess", "511 512", "-c", "2d", "3d_fullres", "-np", "2", "3", "--clean"],
        ["plan_and_preprocess", "-d", "511", "512", "-overwrite_target_spacing", "1.0", "0.5", "0.5", "--no_pp"],
        ["extract_fingerprint", "511 512", "-np", "1", "-fpe", "Extractor", "--verbose"],
    ],
)
def test_the_commands_are_understood_as_they_were_meant(words):
    arguments = parsed(*words)
    server = parse_server(server_of(arguments, "/e vents")[4:])
    assert server.listening.port == 4711
    nodes_say = {"fingerprint": None, "asym": False}
    assert server.coordinator == replace(arguments.coordinator, progress_file=Path("/e vents"), **nodes_say)
    for index, node in enumerate(nodes_of(arguments)):
        assert parse_client(client_of(arguments, index)[4:]).node == node


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """Two datasets that are raw, and one that is only preprocessed."""
    for variable, names in (("raw", ("001_Heart", "002_Liver")), ("preprocessed", ("512_Liver",))):
        monkeypatch.setenv(f"nnUNet_{variable}", str(tmp_path / variable))
        for name in names:
            (tmp_path / variable / f"Dataset{name}").mkdir(parents=True)
    return tmp_path


def test_sites_bear_the_name_of_their_dataset(datasets):
    assert site_names(["1", "512", "Dataset002_Liver"]) == ["Dataset001_Heart", "Dataset512_Liver", "Dataset002_Liver"]
    for twice in (["1", "2", "Dataset001_Heart"], ["1", "0001"]):
        with pytest.raises(FednnUNetError, match="Dataset001_Heart is listed twice"):
            site_names(twice)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("513", "No dataset with id 513 in nnUNet_raw="),
        ("Dataset001_Hart", "did you mean Dataset001_Heart"),
        ("dataset001_heart", "did you mean Dataset001_Heart"),
        ("/data/nnUNet_raw/Dataset512_Liver/", "did you mean Dataset512_Liver"),
        ("lungs", "give its id"),
        ("3", "ambiguous"),
    ],
)
def test_a_dataset_that_is_not_there_is_told_with_what_there_is(datasets, word, told):
    for name in ("A", "B"):
        (datasets / "raw" / f"Dataset003_{name}").mkdir()
    with pytest.raises(FednnUNetError, match=told):
        site_names(["1", word])


def test_log_folders_are_new_and_stand_beside_the_results(tmp_path, monkeypatch):
    monkeypatch.setattr(simulation.time, "strftime", lambda _: "2025-01-31_12-00-00")
    results, preprocessed = tmp_path / "results", tmp_path / "preprocessed"
    both = {"nnUNet_results": str(results), "nnUNet_preprocessed": str(preprocessed)}
    first = make_log_dir(None, "train", both)
    assert first == results / "fednnunet_runs" / "2025-01-31_12-00-00_train"
    assert make_log_dir(None, "train", both).name == "2025-01-31_12-00-00_train-2"
    assert make_log_dir(None, "train", {"nnUNet_preprocessed": str(preprocessed)}).parent.parent == preprocessed
    monkeypatch.chdir(tmp_path)
    assert make_log_dir(None, "train", {}).parent == tmp_path / "fednnunet_runs"
    assert make_log_dir(Path("my logs"), "train", both) == tmp_path / "my logs"
    assert make_log_dir(Path("my logs"), "train", both) == tmp_path / "my logs"


def test_a_log_folder_that_cannot_be_made_is_told_with_the_remedy(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FednnUNetError, match="--log_dir"):
        make_log_dir(tmp_path / "file" / "logs", "train", {})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "1 2", "2d", "0", "-device", "cpu", "--gpus", "0 1"], "--gpus has no effect with -device cpu"),
        (["extract_fingerprint", "1 2", "--gpus", "0 1"], "--gpus has no effect with extract_fingerprint"),
        (["train", "1 2", "2d", "0", "--gpu_memory_target", "8 8"], "give it to plan_and_preprocess"),
        (["plan_and_preprocess", "1 2", "--gpu_memory_target", "8 big"], "'big' is not a number"),
        (["plan_and_preprocess", "1 2", "--gpu_memory_target", "8 8", "-gpu_memory_target", "8"], "either"),
        (["plan_and_preprocess", "1 1"], "listed twice"),
        (["extract_fingerprint", "1 2", "--host", "192.0.2.1"], "192.0.2.1"),
        (["extract_fingerprint", "1 2", "--host", "no.such.host.invalid"], "--host"),
    ],
)
def test_mistakes_are_told_before_anything_starts(words, message, tmp_path, datasets):
    with pytest.raises(FednnUNetError, match=message):
        run_simulation(parse_run([*words, "--log_dir", str(tmp_path / "logs")]))
    assert not (tmp_path / "logs").exists()


def test_a_port_in_use_is_told_before_anything_starts(tmp_path):
    logs = str(tmp_path / "logs")
    with socket.create_server(("127.0.0.1", 0)) as server:
        arguments = parse_run(["extract_fingerprint", "1", "--log_dir", logs, "--port", str(server.getsockname()[1])])
        with pytest.raises(FednnUNetError, match=r"cannot listen on .*--port"):
            run_simulation(arguments)
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize("status", [0, 1])
def test_a_run_says_what_runs_where_and_leaves_a_log_for_each(tmp_path, monkeypatch, capsys, status):
    for variable in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
        monkeypatch.setenv(variable, str(tmp_path / "nn raw"))
    for name in ("Dataset001_A", "Dataset002_B"):
        (tmp_path / "nn raw" / name).mkdir(parents=True)
    monkeypatch.setattr(simulation, "check_sites", lambda *_: None)
    monkeypatch.setattr(simulation.devices, "available_cores", lambda: 4)
    code = "import os, sys; print(sys.argv[1], os.environ.get('OMP_NUM_THREADS')); sys.exit(int(sys.argv[2]))"
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        simulation, "server_command", lambda settings: [sys.executable, "-c", code, str(settings.port), "0"]
    )
    monkeypatch.setattr(
        simulation, "client_command", lambda _, i: [sys.executable, "-c", code, f"node {i}", str(status * i)]
    )
    logs = tmp_path / "the logs"
    words = ["train", "1 2", "2d", "0", "-device", "cpu", "--log_dir", str(logs)]
    arguments = parse_run(words)
    assert run_simulation(arguments) == status
    assert arguments.port is None
    shown = capsys.readouterr().out.splitlines()
    assert "Dataset001_A: cpu, 2 CPU cores" in shown
    assert "Dataset002_B: cpu, 2 CPU cores" in shown
    assert "Dataset001_A | node 0 2" in shown
    assert shown[-1] == f"Logs: {logs}"
    assert (logs / "Dataset001_A.log").read_text() == "node 0 2\n"
    assert (logs / "Dataset002_B.log").read_text() == "node 1 2\n"
    assert (logs / "server.log").read_text().endswith(" None\n")


def test_a_training_has_one_folder_however_its_sites_are_spelled(tmp_path, monkeypatch):
    for name in ("Dataset007_Lung", "Dataset511_Liver", *(f"Dataset{number}_X" for number in (512, *range(100, 400)))):
        (tmp_path / "raw" / name).mkdir(parents=True)
    monkeypatch.setenv("nnUNet_raw", str(tmp_path / "raw"))

    def folder(sites, configuration="2d", *flags):
        arguments = parsed("train", sites, configuration, "0", *flags)
        results = {"nnUNet_results": str(tmp_path)}
        return simulation.training_run_dir(arguments.datasets, arguments.nodes[0], results)

    expected = tmp_path / "fednnunet_runs" / "7+511__nnUNetTrainer__nnUNetPlans__2d"
    for spelling in ("7 511", "511 7", "007 Dataset511_Liver", "Dataset511_Liver Dataset007_Lung"):
        assert folder(spelling) == expected
    others = [folder("7 512"), folder("7 511", "3d_fullres"), folder("7 511", "2d", "-p", "bs4"), folder("7")]
    assert len({expected, *others}) == 5
    assert folder("7 511", "2d", "--c") == expected
    many = " ".join(str(number) for number in range(100, 400))
    assert len(folder(many).name) < 255
