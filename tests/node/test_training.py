"""What a node that trains answers, and to which questions it does not."""

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from fednnunet.node.warm_trainers import Parkable, WarmTrainers
from fednnunet.protocol.conversation import Question
from fednnunet.protocol.messages import ModelPart, RoundReport, Support, ValidationReport
from tests.node.training_node import SIZE, STEP, UNTRAINED, Reply, TrainingNode

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
    node.change(validation_only=True)
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


def test_what_stays_at_the_site_leaves_it_once_after_the_last_round_only(node: TrainingNode) -> None:
    node.start(completed=28)
    assert "data" not in node.share(at_end=True)
    node.ask("accept", '{"round": 28}')
    assert "has not trained" in str(node.collect(28)["failure"])
    for number in (29, 30):
        node.fit(number)
        assert "failure" in node.collect(number)  # the round is not over
        assert "failure" not in node.evaluate(number)
    assert "failure" in node.collect(29)
    sent = np.frombuffer(bytes(node.collect(30)["data"]), np.float32)
    assert sent.tolist() == [UNTRAINED + 2 * STEP] * SIZE
    node.ask("finish")
    assert np.frombuffer(bytes(node.collect(30)["data"]), np.float32).tolist() == sent.tolist()
    assert (node.trainers[0].network.weight == UNTRAINED + 2 * STEP).all()


def test_an_untrained_network_and_one_that_shares_all_have_nothing_to_collect(node: TrainingNode) -> None:
    node.start(completed=30)
    node.share(at_end=True)
    node.ask("accept", '{"round": 30}')
    assert "has not trained" in str(node.collect(30)["failure"])
    node.share()
    assert "that it has declared local" in str(node.collect(30)["failure"])


@pytest.mark.parametrize("body", ["", "[]", '{"error": 3}', '{"words": "good bye"}'])
def test_a_farewell_that_cannot_be_read_is_one(node: TrainingNode, body: str) -> None:
    assert "malformed" in str(node.ask("farewell", body)["failure"])
    assert node.client.has_left
    assert node.client.farewell is not None
    assert node.client.farewell.error is not None


def _report(reply: Reply) -> RoundReport:
    return RoundReport.from_json(str(reply["body"]))


def test_a_round_is_validated_and_told_of_once_whatever_model_it_is_asked_with(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    node.hand(1, bytes(4 * SIZE))
    first = _report(node.evaluate(1))
    (trainer,) = node.trainers
    done = trainer.validations
    node.hand(1, np.full(SIZE, 7, np.float32).tobytes())
    assert _report(node.evaluate(1)) == first
    assert trainer.validations == done == 50


def test_a_round_that_was_not_trained_is_not_validated(node: TrainingNode) -> None:
    node.begin()
    assert "has not trained" in str(node.evaluate(1)["failure"])
    node.fit(1)
    assert "has not trained" in str(node.evaluate(2)["failure"])
    assert node.trainers[0].validations == 0


def test_a_round_is_trained_from_the_global_model_of_the_round_before_only(node: TrainingNode) -> None:
    node.begin(completed=3)
    assert "asks for round 6, for which this node is not ready" in str(node.fit(6)["failure"])
    assert "asks for round 3, for which this node is not ready" in str(node.fit(3)["failure"])
    assert node.trainers[0].steps == 0
    assert node.fit(4) == {}
    assert node.trainers[0].steps == 1


def test_a_round_is_not_trained_on_from_a_model_that_was_not_validated(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    assert "asks for round 2, for which this node is not ready" in str(node.fit(2)["failure"])
    assert node.trainers[0].steps == 1


def test_an_update_leaves_as_one_of_the_round_that_was_trained_only(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    for number in (2, 7):
        refused = node.fetch(number)
        assert set(refused) == {"failure"}
        assert f"asks for an update of round {number}, which this node has not" in str(refused["failure"])
    assert "data" in node.fetch(1)


def test_a_question_about_another_round_than_its_own_is_refused(node: TrainingNode) -> None:
    node.begin()
    node.fit(1)
    body = ModelPart(round=1, group=0, start=0, stop=SIZE).to_json()
    answer = node.client.answer(Question("fetch", body, id="a lie for the log", round=0))
    assert "of another round than its question" in str(answer.failure)
    assert answer.data == b""


@pytest.mark.parametrize("local_epochs", [1, 3])
def test_every_epoch_of_a_round_is_ended_and_the_last_one_after_the_global_model_was_validated(
    node: TrainingNode, local_epochs: int
) -> None:
    node.start(local_epochs=local_epochs)
    node.share(), node.hand(0, bytes(4 * SIZE)), node.ask("accept", '{"round": 0}')
    (trainer,) = node.trainers
    for number in (1, 2):
        node.fit(number)
        before = local_epochs * number - 1
        assert trainer.hooks.count("on_epoch_start") == local_epochs * number
        assert trainer.hooks.count("on_epoch_end") == before
        node.hand(number, bytes(4 * SIZE))
        node.evaluate(number)
        node.client.replies.afterwards(lambda _: None).wait(60)  # housekeeping comes before it
        assert trainer.hooks.count("on_epoch_end") == before + 1
        assert trainer.hooks.count("on_validation_epoch_end") == local_epochs * number


def test_the_full_validation_is_done_once_unless_the_fold_is_trained_again(node: TrainingNode) -> None:
    node.begin(completed=30)
    first = node.ask("finish")["body"]
    node.start(completed=30, run="cd" * 16)
    assert node.ask("finish")["body"] == first
    assert "failure" not in node.ask("offer", '{"fold": 0}')
    node.begin(completed=30)
    assert node.ask("finish")["body"] == first
    assert sum(trainer.full_validations for trainer in node.trainers) == 1
    node.fit(31)
    node.ask("finish")
    assert sum(trainer.full_validations for trainer in node.trainers) == 2


def test_another_schedule_is_not_taken_for_the_one_that_the_trainer_was_built_for(node: TrainingNode) -> None:
    node.start(val_iterations=1)
    node.start(val_iterations=50)
    assert [trainer.num_val_iterations_per_epoch for trainer in node.trainers] == [1, 50]
    node.start(completed=3, val_iterations=50)
    assert len(node.trainers) == 2


def test_reports_tell_how_many_cases_are_behind_each_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    node = TrainingNode(tmp_path, monkeypatch, CASES | {"case_0": {"organ"}})
    node.begin()
    node.fit(1)
    node.hand(1, bytes(4 * SIZE))
    assert _report(node.evaluate(1)).support == Support(training=2, validation=6, labels={"organ": 6, "lesion": 5})
    full = ValidationReport.from_json(str(node.ask("finish")["body"]))
    assert full.support == Support(validation=6, labels={"organ": 6, "lesion": 5})
    node.start(val_iterations=1)  # two samples cannot be of more than two cases
    node.share(), node.hand(0, bytes(4 * SIZE)), node.ask("accept", '{"round": 0}'), node.fit(1)
    assert _report(node.evaluate(1)).support == Support(training=2, validation=2, labels={"organ": 2, "lesion": 2})
    node.client.close()


def _write_a_file() -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/secret/place/progress.png")


def _write_a_checkpoint() -> None:
    torch.save({"weights": torch.zeros(1 << 16)}, "/dev/full")


def test_a_file_that_was_removed_meanwhile_is_told_in_one_sentence(
    node: TrainingNode, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    node.begin()
    case = tmp_path / "patient_007.b2nd"
    node.client._rounds._trainer.train_step = lambda _: case.read_bytes()
    told = str(node.fit(1)["failure"])
    assert told == "a file no longer exists. Restore it, and restart the node"
    assert str(case) in str(node.client.failure)
    assert not any(record.exc_info for record in caplog.records)


@pytest.mark.parametrize(
    ("write", "why"), [(_write_a_file, "Read-only file system"), (_write_a_checkpoint, "is the disk full?")]
)
def test_a_disk_that_takes_no_more_is_told_in_one_sentence(
    node: TrainingNode, write: Callable[[], None], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    node.begin()
    node.fit(1)
    node.hand(1, bytes(4 * SIZE))
    node.evaluate(1)
    node.trainers[0].perform_actual_validation = lambda _: write()  # type: ignore[method-assign]
    told = str(node.ask("finish")["failure"])
    assert told.startswith("a file cannot be written")
    assert why in told
    assert "restart the node" in told
    assert "/secret" not in told
    assert why in str(node.client.failure)
    assert ("/secret/place" in str(node.client.failure)) == (write is _write_a_file)
    assert not any(record.exc_info for record in caplog.records)


def _drawn_in_round(node: TrainingNode, number: int) -> float:
    """Train a round, and return what is drawn next."""
    node.fit(number)
    return float(np.random.random())


def test_with_a_seed_a_round_draws_the_same_numbers_in_a_node_that_was_started_again(node: TrainingNode) -> None:
    node.change(seed=5)
    node.begin()
    first = _drawn_in_round(node, 1)
    node.hand(1, bytes(4 * SIZE))
    node.evaluate(1)
    second = _drawn_in_round(node, 2)
    assert second != first
    node.client._forget_fold()
    np.random.seed(1)
    node.begin(completed=1)
    assert _drawn_in_round(node, 2) == second


def test_without_a_seed_random_numbers_are_left_alone(node: TrainingNode) -> None:
    np.random.seed(1)
    node.begin()
    assert _drawn_in_round(node, 1) == np.random.RandomState(1).random()


class _Places(WarmTrainers):
    """Writes down how often a trainer is needed."""

    def __init__(self) -> None:
        super().__init__(places=1)
        self.used = 0

    def use(self, trainer: Parkable) -> None:
        self.used += 1
        super().use(trainer)


def test_a_trainer_takes_a_place_on_the_device_to_work_and_none_to_exchange_weights(node: TrainingNode) -> None:
    places = _Places()
    node.client._warm = places
    node.begin()
    for work in (lambda: node.fit(1), lambda: node.evaluate(1), lambda: node.ask("finish")):
        before = places.used
        work()
        assert places.used > before
        before = places.used
        node.fetch(1)
        node.hand(1, bytes(4 * SIZE))
        assert places.used == before
