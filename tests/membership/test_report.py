"""What people read of an audit."""

import json
from pathlib import Path

import pytest

from fednnunet.membership.auditing import Audit
from fednnunet.membership.report import notes, sentence, write_report
from fednnunet.membership.scoring import CaseScore
from fednnunet.membership.settings import PrivacyAuditSettings

SETTINGS = PrivacyAuditSettings(dataset="Dataset001_A", configuration="2d", fold="0")


def _audit(trained: list[float], held_out: list[float], *, paired: bool = False) -> Audit:
    first, second = (
        {f"{name}_{number}": CaseScore(loss, 1 - loss / 100) for number, loss in enumerate(losses)}
        for name, losses in (("case", trained), ("case" if paired else "other", held_out))
    )
    return Audit(first, second, paired)


LEAKS = _audit([float(n) for n in range(20)], [n + 10.5 for n in range(20)])


def test_a_stranger_is_right_in_so_many_of_a_hundred_pairs() -> None:
    told = sentence("federated", LEAKS)
    value = sum(n < m + 10.5 for n in range(20) for m in range(20)) / 400
    assert f"picks that one in {100 * value:.0f} of 100 such pairs" in told
    assert "by more than chance" in told
    assert "11 of the 20 cases trained on would be recognized without a false alarm" in told
    assert "below 1/20" in told


def test_too_few_cases_are_told_as_such() -> None:
    assert "too few cases to say (trained on 4, held out 12" in sentence("alone", _audit([0.0] * 4, [1.0] * 12))
    assert "too few cases to say (3 pairs" in sentence("alone", _audit([0.0] * 3, [1.0] * 3, paired=True))
    undecided = _audit([float(n) for n in range(10)], [n + 0.5 for n in range(10)])
    assert "too few cases to say whether" in sentence("federated", undecided)


def test_pairs_have_words_of_their_own() -> None:
    paired = _audit([0.0] * 18 + [2.0] * 2, [1.0] * 20, paired=True)
    assert "90 % of your 20 cases are fitted better by the models trained on them" in sentence("federated", paired)
    assert any("usually finds more" in note for note in notes(SETTINGS, {"federated": paired}))


def test_a_pair_without_one_of_its_scores_does_not_count() -> None:
    audit = Audit(
        {"a": CaseScore(1.0, None), "b": CaseScore(1.0, 0.5)},
        {"a": CaseScore(2.0, 0.5), "b": CaseScore(3.0, 0.4)},
        True,
    )
    assert audit.values("loss") == ([1.0, 1.0], [2.0, 3.0])
    assert audit.values("dice_loss") == ([0.5], [0.6])


@pytest.mark.parametrize("paired", [False, True])
def test_the_report_has_everything_in_three_files(tmp_path: Path, paired: bool) -> None:
    audit = _audit([0.5] * 9, [float(n) for n in range(9)], paired=paired)
    content = write_report(SETTINGS, {"federated": audit, "alone": _audit([], [], paired=paired)}, tmp_path)
    assert json.loads((tmp_path / "privacy_audit.json").read_text()) == content
    assert len(content["models"]["federated"]["cases"]) == 18
    assert content["models"]["federated"]["by_loss"]["auc"]["value"] == pytest.approx(8 / 9)
    assert content["models"]["alone"]["by_loss"]["auc"] is None
    assert (tmp_path / "privacy_audit.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "privacy_audit.md").read_text()
    assert sentence("federated", audit) in text
    assert "| alone | 0 | 0 |" in text
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"privacy_audit.{end}" for end in ("json", "md", "png")]
