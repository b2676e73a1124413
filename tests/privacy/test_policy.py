"""The policy file, and asking a person."""

import threading
import tomllib
from pathlib import Path

import pytest

from fednnunet.background import Stopped, Tracker
from fednnunet.cli.commands import main
from fednnunet.errors import FednnUNetError
from fednnunet.privacy.approval import Approver, waiting
from fednnunet.privacy.policy import KINDS, RECOMMENDED, Policy, read_policy


def test_the_policy_that_is_written_is_one_and_names_every_rule_there_is(tmp_path: Path) -> None:
    path = tmp_path / "a folder" / "policy.toml"
    assert main(["policy", "create", "--out", str(path)]) == 0
    assert read_policy(path) == Policy.model_validate(tomllib.loads(RECOMMENDED))
    assert main(["policy", "check", str(path)]) == 0
    for name in Policy.model_fields:
        assert name in RECOMMENDED
    assert main(["policy", "create", "--out", str(path)]) == 1  # never written over


def test_without_a_file_everything_that_a_task_needs_is_allowed() -> None:
    for kind in KINDS:
        rule = Policy().rule(kind)
        assert rule.allow
        assert not rule.confirm
        assert getattr(rule, "min_cases", 1) == 1


def test_the_recommended_policy_lets_no_geometry_of_single_cases_out(tmp_path: Path) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(RECOMMENDED)
    policy = read_policy(path)
    assert not policy.cases.allow
    assert policy.fingerprint.min_cases == 5
    assert policy.rule("update").confirm
    assert policy.rule("contact") == Policy().rule("contact")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("[update]\nallow = 'no idea'", r"wrong at update\.allow"),
        ("[update]\nmax_round = 3", r"wrong at update\.max_round"),
        ("[contact]\nallow = false", "wrong at contact"),
        ("[fingerprint]\nmin_cases = 0", r"wrong at fingerprint\.min_cases"),
        ("max_bytes = 'many'", "wrong at max_bytes"),
        ("[update", "is not valid TOML"),
    ],
)
def test_a_rule_that_there_is_not_is_refused_rather_than_ignored(tmp_path: Path, content: str, complaint: str) -> None:
    path = tmp_path / "policy.toml"
    path.write_text(content)
    with pytest.raises(FednnUNetError, match=complaint):
        read_policy(path)


def test_bytes_can_be_given_with_a_unit() -> None:
    assert Policy.model_validate({"max_bytes": "1.5 MB"}).max_bytes == 1_500_000


def _ask(approver: Approver, tracker: Tracker | None = None) -> "tuple[threading.Thread, list[object]]":
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(approver.ask("update", "weights", [b"abc", b"def"], tracker))
        except Stopped:
            answers.append(Stopped)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    return thread, answers


@pytest.mark.parametrize("agreed", [True, False])
def test_a_person_finds_what_waits_in_a_folder_and_answers_there(tmp_path: Path, agreed: bool) -> None:
    folder = tmp_path / "what waits"
    thread, answers = _ask(Approver(folder, terminal=False))
    while not folder.is_dir() or not waiting(folder):
        thread.join(0.01)
    (request,) = waiting(folder)
    assert request.payload.read_bytes() == b"abcdef"
    assert request.summary.read_text() == "weights\n"
    assert folder.stat().st_mode & 0o077 == 0
    request.decide(agreed)
    thread.join(60)
    assert answers == [agreed]
    assert waiting(folder) == []


def test_an_earlier_answer_is_not_taken_for_the_next_one(tmp_path: Path) -> None:
    approver = Approver(tmp_path, terminal=False)
    for agreed in (True, False):
        thread, answers = _ask(approver)
        while not waiting(tmp_path):
            thread.join(0.01)
        waiting(tmp_path)[0].decide(agreed)
        thread.join(60)
        assert answers == [agreed]


def test_an_answer_that_was_left_behind_is_none(tmp_path: Path) -> None:
    (tmp_path / "0002-update.answer").write_text("yes")
    (tmp_path / "0001-update.txt").write_text("")
    (tmp_path / "0001-update.answer").write_text("no")
    thread, answers = _ask(Approver(tmp_path, terminal=False))
    while not waiting(tmp_path):
        thread.join(0.01)
    assert answers == []
    waiting(tmp_path)[0].decide(False)
    thread.join(60)
    assert answers == [False]


def test_who_waits_for_an_answer_can_be_stopped(tmp_path: Path) -> None:
    tracker = Tracker()
    thread, answers = _ask(Approver(tmp_path, terminal=False), tracker)
    tracker.stop()
    thread.join(60)
    assert answers == [Stopped]
    assert waiting(tmp_path) == []


def test_what_a_killed_node_has_waited_for_is_withdrawn_when_it_is_started_again(tmp_path: Path) -> None:
    (tmp_path / "0001-update.txt").write_text("of a node that was killed")
    (left,) = waiting(tmp_path)
    approver = Approver(tmp_path, terminal=False)
    assert waiting(tmp_path) == []
    assert not left.decide(True)  # whoever was looking at it is told so
    assert left.decision is False
    thread, answers = _ask(approver)
    while not waiting(tmp_path):
        thread.join(0.01)
    (request,) = waiting(tmp_path)
    assert request.decide(True)
    thread.join(60)
    assert answers == [True]
