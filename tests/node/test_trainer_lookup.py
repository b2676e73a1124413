"""Trainers are found while other threads import modules."""

from pathlib import Path

import pytest

from fednnunet.nnunet_defaults import looked_up
from fednnunet.node import rounds
from tests.node.training_node import TrainingNode


def test_a_search_that_modules_have_disturbed_is_done_again_and_any_other_error_is_told() -> None:
    errors = [RuntimeError("dictionary changed size during iteration")] * 3

    def look() -> str:
        if errors:
            raise errors.pop()
        return "found"

    assert looked_up(look) == "found"
    errors = [RuntimeError("the trainer is broken")]
    with pytest.raises(RuntimeError, match="is broken"):
        looked_up(look)


def test_a_module_that_another_thread_imports_does_not_end_a_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the report page's did, when a training in one process was continued."""
    node, errors = TrainingNode(tmp_path, monkeypatch, {}), ["dictionary changed size during iteration"]
    build = rounds.get_trainer_from_args

    def disturbed(*words: object) -> object:
        if errors:
            raise RuntimeError(errors.pop())
        return build(*words)

    monkeypatch.setattr(rounds, "get_trainer_from_args", disturbed)
    assert "failure" not in node.start()
    assert len(node.trainers) == 1
