"""Models that sites train beside the federation's, as the coordinator asks for them."""

from pathlib import Path

import pytest
from flwr.common import Scalar

from fednnunet.coordinator.run_folder import FoldFolder
from fednnunet.events.events import GainTold
from fednnunet.protocol.messages import Gain, GainReport, OwnTrained
from tests.coordinator.training_federation import Trainer, run_training

_FLAGS = ("--rounds", "2", "--local_epochs", "3")


def _fail(body: str) -> dict[str, Scalar]:
    return {"failure": "its disk is full"}


def test_own_models_come_after_the_federation_is_finished_and_get_equal_work(tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B")]
    federation, events = run_training(tmp_path, nodes, *_FLAGS, "--personalize", "4", "--alone")
    assert federation.error is None
    for node in nodes:
        assert node.own_models == [("personal", 4), ("alone", 2 * 3 + 4)]
        assert node.asked[-4:] == ["train_own", "train_own", "gain", "farewell"]
        assert node.asked.index("finish") < node.asked.index("train_own")
    (told,) = [event for event in events.seen if isinstance(event, GainTold)]
    report = GainReport(labels={"x": Gain(federated=0.5)}, advice="alone")  # there is no label y
    assert told == GainTold(fold="0", sites={"A": report, "B": report})


def test_without_the_flags_no_site_is_asked(tmp_path: Path) -> None:
    node = Trainer("A")
    run_training(tmp_path, [node], "--rounds", "1")
    assert node.own_models == []


def test_a_site_that_cannot_train_its_own_stays_and_its_name_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    nodes = [Trainer("A"), Trainer("B", train_own=lambda body: {"body": OwnTrained(epochs=None).to_json()})]
    federation, events = run_training(tmp_path, nodes, *_FLAGS, "--personalize", "4", "--alone")
    assert federation.error is None
    assert events.left_out == []
    assert [message for message in caplog.messages if "Site B could not train its personal model" in message]
    assert nodes[1].asked[-4:] == ["train_own", "train_own", "gain", "farewell"]


@pytest.mark.parametrize("fails", ["A", "B", "AB"])
def test_a_site_that_fails_has_the_federations_model_and_stops_nobody(tmp_path: Path, fails: str) -> None:
    nodes = [Trainer(site, **({"train_own": _fail} if site in fails else {})) for site in "AB"]
    federation, events = run_training(tmp_path, nodes, *_FLAGS, "--personalize", "4", "--alone")
    assert federation.error is None
    for node in nodes:
        assert node.own_models == ([] if node.cid in fails else [("personal", 4), ("alone", 10)])
        assert node.asked.count("train_own") == (1 if node.cid in fails else 2)
    assert {(event.site, "its disk is full" in event.reason) for event in events.left_out} == {
        (site, True) for site in fails
    }
    description = FoldFolder.of(tmp_path, 0).description()
    assert description is not None
    assert description.finished


def test_a_training_that_is_finished_is_personalized_later_and_by_who_is_there(tmp_path: Path) -> None:
    run_training(tmp_path, [Trainer("A"), Trainer("B")], *_FLAGS)
    node = Trainer("B")
    federation, events = run_training(tmp_path, [node], *_FLAGS, "--c", "--personalize", "5", "--min_clients", "1")
    assert federation.error is None
    assert node.own_models == [("personal", 5)]
    assert not {"start", "fit", "finish"} & set(node.asked)
    assert events.rounds == []
