"""Our declarations of nnU-Net's flags against nnU-Net's own parsers, so that a new release cannot drift unnoticed."""

import argparse
from collections.abc import Callable

import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_entrypoints import (
    extract_fingerprint_entry,
    plan_and_preprocess_entry,
)
from nnunetv2.inference.predict_from_raw_data import predict_entry_point
from nnunetv2.run.run_training import run_training_entry

from fednnunet.settings.flag import Flag, add_flags
from fednnunet.settings.nnunet_flags import EVALUATE_FLAGS, FLAGS_OF_TASK


class _CapturedError(Exception):
    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser


def _parser_of(entry: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    def capture(parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        raise _CapturedError(parser)

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", capture)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_known_args", capture)
    with pytest.raises(_CapturedError) as caught:
        entry()
    monkeypatch.undo()
    return caught.value.parser


def _facts(parser: argparse.ArgumentParser) -> dict[str, tuple[object, ...]]:
    return {
        action.option_strings[0]: (action.default, action.type, action.nargs, action.const, action.choices)
        for action in parser._actions
        if action.option_strings and action.option_strings[0] != "-h"
    }


@pytest.mark.parametrize(
    ("task", "entry"),
    [
        ("train", run_training_entry),
        ("extract_fingerprint", extract_fingerprint_entry),
        ("plan_and_preprocess", plan_and_preprocess_entry),
    ],
)
def test_flags_are_those_of_nnunet(task: str, entry: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    ours = argparse.ArgumentParser()
    add_flags(ours, FLAGS_OF_TASK[task])
    assert _facts(ours) == _facts(_parser_of(entry, monkeypatch))


def test_flags_of_evaluate_are_those_of_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = argparse.ArgumentParser()
    add_flags(ours, EVALUATE_FLAGS)
    assert _facts(ours).items() <= _facts(_parser_of(predict_entry_point, monkeypatch)).items()


@pytest.mark.parametrize("task", FLAGS_OF_TASK)
def test_a_command_line_rebuilt_from_its_values_parses_to_the_same_values(task: str) -> None:
    words = {
        "train": "-tr T -p P --npz -device cpu -num_gpus 1",
        "evaluate": "-tr T -p P -device cpu -step_size 0.7 --disable_tta",
        "extract_fingerprint": "-np 3 --clean --verbose",
        "plan_and_preprocess": "-np 3 4 -c 2d 3d_fullres -gpu_memory_target 6.5 -overwrite_target_spacing 1 0.5 2",
    }[task].split()
    parser = argparse.ArgumentParser()
    add_flags(parser, FLAGS_OF_TASK[task])
    first = parser.parse_args(words)
    rebuilt = [word for flag in FLAGS_OF_TASK[task] for word in flag.to_argv(first)]
    assert parser.parse_args(rebuilt) == first
    assert sorted(rebuilt) == sorted(w for w in words if w != "-num_gpus" and not (task == "train" and w == "1"))


def test_a_default_is_not_repeated_on_a_command_line() -> None:
    flag = Flag("--number", "", {"type": int, "default": 4})
    assert flag.to_argv(argparse.Namespace(number=4)) == []
    assert flag.to_argv(argparse.Namespace(number=5)) == ["--number", "5"]
