"""No update makes a model that cannot be trained on; whoever sent it is left out, and a spoilt model can be undone."""

from pathlib import Path

import numpy as np
import pytest

from fednnunet.cli.commands import main
from fednnunet.coordinator.run_folder import CanGoOnError, FoldFolder, alone_in
from tests.coordinator.training_federation import Diverging, Trainer, run_training

TWO_OF_THREE = ("--rounds", "3", "--min_clients", "2")


def _model(run_dir: Path, number: int) -> np.ndarray:
    return FoldFolder.of(run_dir, 0).last_model(number)[1]["0.weights"]


@pytest.mark.parametrize("step", [1e30, -3e38, 1e4, np.inf, np.nan])
def test_an_update_far_beyond_the_model_is_not_in_it_and_only_its_site_is_let_go(tmp_path: Path, step: float) -> None:
    nodes = [Trainer("A"), Trainer("B", step=2.0), Trainer("C", step=step)]
    federation, events = run_training(tmp_path, nodes, *TWO_OF_THREE)
    assert federation.error is None
    assert [sorted(event.sites) for event in events.rounds] == [["A", "B"]] * 3
    assert [(event.site, event.round) for event in events.left_out] == [("C", 1)]
    assert (_model(tmp_path, 3) == 4.5).all()
    assert nodes[0].farewell is nodes[1].farewell is None
    assert str(nodes[2].farewell).startswith("This site has failed: its weights are ")


def test_honest_sites_are_not_dismissed_for_what_is_wrong_with_the_model(tmp_path: Path) -> None:
    nodes: list[Trainer] = [Diverging(site) for site in "ABC"]
    federation, events = run_training(tmp_path, nodes, "--rounds", "9", "--min_clients", "2")
    assert isinstance(federation.error, CanGoOnError)
    assert "updates of most sites in round 3 are unusable (A, B, C: its weights are NaN" in str(federation.error)
    assert f"fednnunet rollback {tmp_path} --fold 0 --to 1" in str(federation.error)
    assert events.left_out == []
    assert [node.farewell for node in nodes] == ["none was said"] * 3  # they wait for the coordinator to come back


@pytest.mark.parametrize(("spoilt", "is_the_model"), [(1, False), (2, True)])
def test_the_model_is_to_blame_if_more_than_half_of_the_updates_are_spoilt(
    tmp_path: Path, spoilt: int, is_the_model: bool
) -> None:
    nodes = [Trainer(site, step=np.nan if number < spoilt else 1.0) for number, site in enumerate("ABC")]
    federation, events = run_training(tmp_path, nodes, "--rounds", "1", "--min_clients", "1")
    assert isinstance(federation.error, CanGoOnError) == is_the_model
    assert [event.site for event in events.left_out] == ([] if is_the_model else ["A"])


def test_of_two_sites_one_with_a_spoilt_update_is_left_out(tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B", step=np.nan)]
    federation, events = run_training(tmp_path, nodes, "--rounds", "1", "--min_clients", "1")
    assert federation.error is None
    assert [event.site for event in events.left_out] == ["B"]


def test_a_first_model_that_no_network_has_is_the_failure_of_its_site(tmp_path: Path) -> None:
    huge = Trainer("A")
    huge.value = 1e30
    federation, _ = run_training(tmp_path, [huge, Trainer("B")], "--rounds", "1")
    assert str(federation.error).startswith("Site A failed: its initial model has weights above")


def test_an_update_beyond_the_limit_is_left_out_and_its_site_takes_part_again(tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B"), Trainer("C"), Trainer("D", step=7.0)]
    federation, events = run_training(tmp_path, nodes, "--rounds", "2", "--min_clients", "3", "--max_update_norm", "5")
    assert federation.error is None
    assert [(event.site, event.round) for event in events.left_out] == [("D", 1), ("D", 2)]
    assert "7 times the median of the others, above --max_update_norm" in events.left_out[0].reason
    assert (_model(tmp_path, 2) == 2).all()
    assert nodes[3].farewell is None
    assert nodes[3].starts == [0, 0, 1, 2]


def test_without_the_flag_it_is_only_told(tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B"), Trainer("C"), Trainer("D", step=7.0)]
    federation, events = run_training(tmp_path, nodes, "--rounds", "1", "--min_clients", "3")
    assert federation.error is None
    assert events.left_out == []
    assert (_model(tmp_path, 1) == 2.5).all()


def test_where_nobody_can_be_left_out_the_training_ends_with_the_name_and_can_be_continued(tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B"), Trainer("C", step=7.0)]
    federation, _ = run_training(tmp_path, nodes, "--rounds", "2", "--max_update_norm", "5")
    assert isinstance(federation.error, CanGoOnError)
    assert str(federation.error).startswith("The update of C in round 1 is more than --max_update_norm 5 times")
    federation, events = run_training(
        tmp_path, [Trainer("A"), Trainer("B"), Trainer("C", step=7.0)], "--rounds", "2", "--c"
    )
    assert federation.error is None
    assert [event.round for event in events.rounds] == [1, 2]


def _rollback(run_dir: Path, *words: str) -> int:
    return main(["rollback", str(run_dir), *words])


def test_after_going_back_the_training_goes_on_from_there_and_what_came_after_is_kept_aside(tmp_path: Path) -> None:
    nodes = [Trainer("A"), Trainer("B")]
    run_training(tmp_path, nodes, "--rounds", "5")
    folder = FoldFolder.of(tmp_path, 0)
    assert folder.models() == [3, 4, 5]
    history = folder.history()
    assert _rollback(tmp_path, "--to", "4") == 0
    assert [record.round for record in folder.history()] == [1, 2, 3, 4]
    (aside,) = folder.path.glob("rolled_back_*")
    assert FoldFolder(aside).history() == history
    assert (FoldFolder(aside).last_model(5)[1]["0.weights"] == 5).all()
    again = [Trainer("A", step=0.5), Trainer("B", step=0.5)]
    federation, events = run_training(tmp_path, again, "--rounds", "5", "--c")
    assert federation.error is None
    assert [event.round for event in events.rounds] == [5]
    assert again[0].starts == [4]
    assert (_model(tmp_path, 5) == 4.5).all()


def test_only_what_was_kept_can_be_gone_back_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _rollback(tmp_path / "nothing", "--to", "1") == 1
    assert "contains no training" in capsys.readouterr().err
    run_training(tmp_path, [Trainer("A"), Trainer("B")], "--rounds", "3")
    assert _rollback(tmp_path, "--to", "7") == 1
    assert "has no model of round 7, but of 1, 2, 3" in capsys.readouterr().err.replace("\n", " ")
    assert _rollback(tmp_path, "--to", "2", "--fold", "1") == 1
    assert "contains fold 0" in capsys.readouterr().err
    path = FoldFolder.of(tmp_path, 0).path / "model_000002.npz"
    path.write_bytes(path.read_bytes()[:-9])
    assert _rollback(tmp_path, "--to", "2") == 1
    assert "is damaged" in capsys.readouterr().err
    assert [record.round for record in FoldFolder.of(tmp_path, 0).history()] == [1, 2, 3]
    with alone_in(tmp_path):
        assert _rollback(tmp_path, "--to", "3") == 1
    assert "Another coordinator is running in" in capsys.readouterr().err


def test_of_many_rounds_a_handful_of_older_models_stays(tmp_path: Path) -> None:
    folder = FoldFolder(tmp_path)
    state = {"0.weights": np.zeros(1, np.float32)}
    most = 0
    for number in range(1001):
        folder.keep_model(number, state)
        kept = folder.models()
        most = max(most, len(kept))
        assert kept[-2:] == [max(0, number - 1), number][-len(kept) :]
        for age in (4, 16, 64, 256):  # whenever something is found to be wrong, there is a model from before
            assert number < 2 * age or any(number - 2 * age <= other <= number - age for other in kept)
    assert most <= 11
    assert folder.models() == [512, 768, 896, 960, 976, 992, 996, 998, 999, 1000]
