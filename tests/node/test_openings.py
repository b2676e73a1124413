"""A node that is started again knows of which sums it has told the key."""

from pathlib import Path

import pytest

from fednnunet.errors import FednnUNetError
from fednnunet.node.openings import OPENINGS, Openings


def test_a_new_process_refuses_a_sum_over_other_sites_than_the_one_that_was_opened(tmp_path: Path) -> None:
    Openings(tmp_path, "a run").add(2, "weights", ["A", "B", "C", "D"])
    started_again = Openings(tmp_path, "a run")
    with pytest.raises(FednnUNetError, match=r"allows 0 of these \(masked.max_repeats\)"):
        started_again.check(2, "weights", ["A", "B", "C"], 0)
    started_again.check(2, "weights", ["A", "B", "C", "D"], 0)
    started_again.check(3, "weights", ["A", "B", "C"], 0)
    with pytest.raises(FednnUNetError, match="another sum of round 2"):  # with the same seed, much the same update
        Openings(tmp_path, "another run").check(2, "weights", ["A", "B", "C"], 0)
    Openings(tmp_path, "another run", begins_anew=True).check(2, "weights", ["A", "B", "C"], 0)


def test_sums_over_other_sites_are_counted_in_the_whole_training(tmp_path: Path) -> None:
    openings = Openings(tmp_path, "a run")
    for sites in (["A", "B", "C", "D"], ["A", "B", "C"]):
        openings.check(2, "weights", sites, 1)
        openings.add(2, "weights", sites)
    openings.add(3, "weights", ["A", "B", "C"])
    with pytest.raises(FednnUNetError, match="another sum of round 3"):
        Openings(tmp_path, "a run").check(3, "weights", ["B", "C", "D"], 1)


def test_an_entry_that_was_being_written_is_of_a_key_that_has_not_left(tmp_path: Path) -> None:
    Openings(tmp_path, "a run").add(2, "weights", ["A", "B", "C"])
    with (tmp_path / OPENINGS).open("a", encoding="utf-8") as file:
        file.write('{"run":"a run","round":3')
    Openings(tmp_path, "a run").check(3, "weights", ["A", "B", "D"], 0)
    assert (tmp_path / OPENINGS).read_text(encoding="utf-8").count("\n") == 1


def test_a_record_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / OPENINGS).write_text("nonsense\n", encoding="utf-8")
    with pytest.raises(FednnUNetError, match="not known which sums were opened"):
        Openings(tmp_path, "a run")
