"""How many rounds a training has, which model is kept, and how it ends when somebody stops it."""

import os
import signal
import threading
from pathlib import Path

import numpy as np
import pytest
from flwr.common import Scalar

from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder
from fednnunet.events.events import StageStarted
from tests.coordinator.training_federation import Diverging, Trainer, pending, run_training


@pytest.mark.parametrize("save_every", [1, 2, 100])
def test_a_training_has_as_many_rounds_as_were_asked_for_and_the_last_model_is_kept(
    tmp_path: Path, save_every: int
) -> None:
    nodes = [Trainer("A"), Trainer("B", step=3.0)]
    federation, events = run_training(tmp_path, nodes, "--rounds", "3", "--save_every", str(save_every))
    assert federation.error is None
    assert [event.round for event in events.rounds] == [1, 2, 3]
    for node in nodes:
        assert (node.asked.count("fit"), node.asked.count("evaluate"), node.asked.count("finish")) == (3, 3, 1)
    completed, state = FoldFolder.of(tmp_path, 0).last_model(3)
    assert completed == 3
    np.testing.assert_array_equal(state["0.weights"], nodes[0].model.weights)
    assert (state["0.weights"] == 3 * (1.0 + 3.0) / 2).all()


def test_a_training_that_is_complete_is_not_trained_a_round_more_when_it_is_continued(tmp_path: Path) -> None:
    run_training(tmp_path, [Trainer("A")], "--rounds", "2")
    again = Trainer("A")
    federation, events = run_training(tmp_path, [again], "--rounds", "2", "--c")
    assert federation.error is None
    assert events.rounds == []
    assert "fit" not in again.asked


def test_only_every_so_many_rounds_a_model_is_kept_and_after_the_last(tmp_path: Path) -> None:
    run_training(tmp_path, [Trainer("A")], "--rounds", "5", "--save_every", "3")
    assert [number for number in FoldFolder.of(tmp_path, 0).models() if number] == [3, 5]


def test_a_training_that_is_continued_says_with_which_round(tmp_path: Path) -> None:
    federation, _ = run_training(tmp_path, [Diverging("A")], "--rounds", "4")
    assert isinstance(federation.error, CanGoOnError)
    _, events = run_training(tmp_path, [Trainer("A")], "--rounds", "4", "--c")
    started = [event for event in events.seen if isinstance(event, StageStarted) and event.stage == "training"]
    assert [(event.first_round, event.rounds) for event in started] == [(3, 4)]
    assert [event.round for event in events.rounds] == [3, 4]


def test_a_signal_ends_a_round_that_a_site_would_train_for_ever(tmp_path: Path) -> None:
    is_told = threading.Event()

    def work_for_ever(body: str) -> dict[str, Scalar]:
        if not is_told.is_set():
            is_told.set()
            os.kill(os.getpid(), signal.SIGINT)
        return pending(body)

    nodes = [Trainer("A", fit=work_for_ever), Trainer("B")]
    federation, events = run_training(tmp_path, nodes, "--rounds", "2")
    assert isinstance(federation.error, KeyboardInterrupt)
    assert events.rounds == []
    assert [node.farewell for node in nodes] == ["A user stopped it."] * 2


def test_a_signal_ends_a_round_though_a_site_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fednnunet.coordinator.registry.FAREWELL_SECONDS", 0.1)
    monkeypatch.setattr("fednnunet.coordinator.site.FAREWELL_SECONDS", 0.1)

    class Silent(Trainer):
        """Answers a round only when its connection is ended."""

        def __init__(self, site: str) -> None:
            super().__init__(site, fit=self.say_nothing)
            self.is_closed = threading.Event()
            self.bridge = self

        def say_nothing(self, body: str) -> dict[str, Scalar]:
            os.kill(os.getpid(), signal.SIGINT)
            assert self.is_closed.wait(60)
            raise ConnectionError

        def close(self) -> None:
            self.is_closed.set()

    federation, _ = run_training(tmp_path, [Silent("A"), Trainer("B")], "--rounds", "2")
    assert isinstance(federation.error, KeyboardInterrupt)
