"""Datasets on the command line: in quotes, without them, with commas, by id and by name."""

import pytest

from fednnunet.cli.arguments import parse_client, parse_run
from fednnunet.cli.comparison import parse_compare
from fednnunet.settings.node import PlanningSettings, TrainingSettings

_IDS = ["301", "302", "303"]


@pytest.mark.parametrize(
    "words",
    [
        ["301 302 303", "3d_fullres", "all"],
        ["301", "302", "303", "3d_fullres", "all"],
        ["301,302 303", "3d_fullres", "all"],
        ["301,", "302,", "303", "3d_fullres", "--rounds", "3", "all"],
        ["301 302", "303", "--rounds", "3", "3d_fullres", "all"],
        ["301", ",", "302;303", "3d_fullres", "all"],
        ["'301", '302"', "303'", "3d_fullres", "all"],
    ],
)
def test_datasets_are_understood_however_they_are_separated(words: list[str]) -> None:
    trained, compared = parse_run(["train", *words]), parse_compare(words)
    for node in trained.nodes:
        assert isinstance(node, TrainingSettings)
        assert (node.configuration, node.fold) == ("3d_fullres", "all")
    assert trained.datasets == _IDS
    assert (list(compared.datasets), compared.configuration, compared.fold) == (_IDS, "3d_fullres", "all")


def test_names_and_folders_of_datasets_are_datasets_too() -> None:
    words = ["Dataset301_A-b", "dataset302_c", "/raw/Dataset303_D/", "2d", "0"]
    assert parse_run(["train", *words]).datasets == words[:3]


@pytest.mark.parametrize("task", ["plan_and_preprocess", "extract_fingerprint"])
def test_planning_needs_no_quotes_either(task: str) -> None:
    assert parse_run([task, *_IDS]).datasets == _IDS
    assert parse_run([task, "-d", *_IDS]).datasets == _IDS
    arguments = parse_run([task, *_IDS, "3d_fullres"])
    assert (arguments.datasets, arguments.coordinator.fold) == (_IDS, None)
    if task == "plan_and_preprocess":
        assert isinstance(node := arguments.nodes[0], PlanningSettings)
        assert node.configurations == ("3d_fullres",)


def test_lists_of_other_flags_take_commas() -> None:
    words = ["301,302", "2d", "0", "--gpus", "0,1"]
    assert parse_run(["train", *words]).gpus == ("0", "1")
    compared = parse_compare([*words, "--external", "303,304", "--methods", "ffe, local"])
    assert (compared.gpus, compared.external) == (("0", "1"), ("303", "304"))
    assert {method.name for method in compared.methods} == {"ffe", "local"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["301", "302", "3d_fullres"], "no FOLD given after the datasets 301 302"),
        (["301", "302", "303"], "no CONFIGURATION and no FOLD given after the datasets 301 302 303"),
        (["301", "302", "0", "3d_fullres"], "CONFIGURATION comes before FOLD"),
        (["2d", "0", "1"], "no dataset given"),
        ([" ", "2d", "0"], "no dataset given"),
        (["301 302", "2d", "0", "1"], "'1' is unexpected after CONFIGURATION 2d and FOLD 0"),
        (["301 302", "2d", "0", "--gpus", "0", "1"], "put quotes around the values of a flag"),
        (["301", "302", "2d", "0", "--unknown", "5"], "unrecognized arguments: --unknown"),
    ],
)
def test_what_cannot_be_understood_is_explained(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for parse in (lambda words: parse_run(["train", *words]), parse_compare):
        with pytest.raises(SystemExit):
            parse(words)
        assert told in capsys.readouterr().err


def test_a_node_works_on_one_dataset(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "301", "302", "2d", "0"], ["train", "301,302", "2d", "0"], ["extract_fingerprint", *_IDS]):
        with pytest.raises(SystemExit):
            parse_client(words)
        assert "a node works on one dataset, not on 301 302" in capsys.readouterr().err
