"""What a node that trains answers, and to which questions it does not."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.node.training_node import SIZE, UNTRAINED, TrainingNode

CASES = {f"case_{number}": {"organ", "lesion"} for number in range(6)}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainingNode]:
    node = TrainingNode(tmp_path, monkeypatch, CASES)
    yield node
    node.client.close()


def test_the_first_model_is_the_one_that_has_not_been_trained(node: TrainingNode) -> None:
    node.start()
    node.share()
    assert np.frombuffer(bytes(node.fetch(0)["data"]), np.float32).tolist() == [UNTRAINED] * SIZE


def test_trained_weights_are_no_model_of_round_0_however_they_are_asked_for(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    for again in (lambda: None, node.share, lambda: node.start() and node.share()):
        again()
        refused = node.fetch(0)
        assert set(refused) == {"failure"}
        assert "asks for an untrained model" in str(refused["failure"])


def test_a_network_that_a_checkpoint_was_loaded_into_is_no_untrained_one(node: TrainingNode) -> None:
    node.arguments.val = True
    node.start()
    node.share()
    assert "data" not in node.fetch(0)


def test_a_state_that_was_restored_is_no_untrained_network(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    node.hand(1, bytes(4 * SIZE))
    node.client._rounds._schedule = node.client._rounds._schedule.model_copy(update={"save_every": 1})
    assert "failure" not in node.evaluate(1)
    node.client._forget_fold()  # as in a node that was started again
    node.start(completed=1)
    node.share()
    assert "data" not in node.fetch(0)


def test_weights_that_are_held_after_sharing_anew_are_those_of_no_round(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    assert "data" in node.fetch(1)
    node.share()
    assert "data" not in node.fetch(1)


@pytest.mark.parametrize("body", ["", "[]", '{"error": 3}', '{"words": "good bye"}'])
def test_a_farewell_that_cannot_be_read_is_one(node: TrainingNode, body: str) -> None:
    assert "malformed" in str(node.ask("farewell", body)["failure"])
    assert node.client.has_left
    assert node.client.farewell is not None
    assert node.client.farewell.error is not None
