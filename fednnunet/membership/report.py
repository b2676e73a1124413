"""Tells what an audit has found: in words for people who decide, and as a table, Markdown and JSON."""

import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from fednnunet import __version__
from fednnunet.errors import FednnUNetError
from fednnunet.evaluation.gain import TITLES, ModelName
from fednnunet.files import replacing
from fednnunet.membership.attack import FEWEST, Attack
from fednnunet.membership.auditing import Audit
from fednnunet.membership.picture import draw
from fednnunet.membership.settings import PrivacyAuditSettings
from fednnunet.report.formats import MISSING
from fednnunet.table_cells import Markdown, markdown_table
from fednnunet.wording import counted

FILE = "privacy_audit"
"""Of the report, ``.json``, ``.md`` and ``.png``."""

_COLUMNS = ("model", "trained", "held out", "AUC by loss", "AUC by Dice", "recognized", "result")
_NOTE = (
    "AUC: in how many of 100 pairs of a case that has trained and one that has not the attack picks the right one, "
    "divided by 100, with its 95 % interval; 0.5 is guessing, 1 is certainty. Recognized: cases that have trained and "
    "have a lower loss than every held-out case, so that a stranger would find them without a false alarm."
)
_NOTE_PAIRED = (
    "AUC: the share of cases that the models that they have trained fit better than the one that they have not, with "
    "its 95 % interval; 0.5 is guessing, 1 is certainty. This attacker has models with and without the case, which a "
    "stranger with one model has not: take it for an upper bound."
)
_NOTE_OWN = "The personal model and the one trained alone never leave this site; they are there for comparison."
_NOTE_TESTS = (
    "Test cases are among the held-out ones. If they differ from the training cases in more than having trained "
    "nothing (another scanner, other years), the figures tell that difference, too."
)
_NOTE_BOUND = (
    "Attacks that know more, or train models of their own, find more than this one: a low figure is no guarantee."
)


def sentences(name: ModelName, audit: Audit) -> list[str]:
    """Return in plain words what a model has given away.

    Parameters
    ----------
    name
        Which one it is.
    audit
        What was found.
    """
    found, title = audit.by_loss, TITLES[name].capitalize()
    if found.verdict == "too few cases":
        groups = counted(found.trained, "pair") if audit.paired else f"{found.trained} that have trained"
        groups += "" if audit.paired else f" and {found.held_out} that have not"
        return [f"{title}: too few cases to say ({groups}; {'it takes' if audit.paired else 'each takes'} {FEWEST})."]
    assert found.auc is not None
    assert found.auc.low is not None
    assert found.auc.high is not None
    figure = f"{_hundred(found.auc.value)} of 100"
    interval = f"95 % interval {_hundred(found.auc.low)} to {_hundred(found.auc.high)}; guessing gives 50"
    meaning = {
        "tells": "it tells more than chance",
        "little": "that is hardly better than guessing",
        "unclear": "there are too few cases to say whether that is better than guessing",
    }[found.verdict]
    if audit.paired:
        told = f"of your cases, {figure} fit better where they have trained than where they have not"
        return [f"{title}: {told} ({interval}): {meaning}."]
    told = (
        "a stranger with the model who is handed two of your cases, one of which has trained it, picks that one in "
        f"{figure} pairs"
    )
    return [f"{title}: {told} ({interval}): {meaning}.", _recognized(found)]


def table(audits: Mapping[ModelName, Audit]) -> Table:
    """Return the table of all models, for a terminal."""
    made = Table(box=None, pad_edge=False, header_style="dim")
    for column in _COLUMNS:
        made.add_column(column, justify="left" if column in {_COLUMNS[0], _COLUMNS[-1]} else "right")
    for name, audit in audits.items():
        made.add_row(*_cells(name, audit))
    return made


def notes(settings: PrivacyAuditSettings, audits: Mapping[ModelName, Audit]) -> list[str]:
    """Return how to read the figures."""
    paired = any(audit.paired for audit in audits.values())
    found = [_NOTE_PAIRED if paired else _NOTE]
    found += [_NOTE_TESTS] if settings.test_cases or settings.fold == "fold_all" else []
    return [*found, *([_NOTE_OWN] if len(audits) > 1 else []), _NOTE_BOUND]


def as_json(settings: PrivacyAuditSettings, audits: Mapping[ModelName, Audit]) -> dict[str, Any]:
    """Return everything, the scores of each case too."""
    return {
        "dataset": settings.dataset,
        "model": settings.model_name(),
        "fold": settings.fold,
        "checkpoint": settings.checkpoint,
        "mirrored": settings.mirror,
        "versions": {"fednnunet": __version__, "nnunetv2": version("nnunetv2")},
        "models": {name: _audit_as_json(name, audit) for name, audit in audits.items()},
    }


def write_report(settings: PrivacyAuditSettings, audits: Mapping[ModelName, Audit], folder: Path) -> dict[str, Any]:
    """Write JSON, Markdown and picture, and return the JSON.

    Raises
    ------
    FednnUNetError
        If a file cannot be written.
    """
    content = as_json(settings, audits)
    texts = {".json": json.dumps(content, indent=1) + "\n", ".md": _markdown(settings, audits)}
    try:
        for ending, text in texts.items():
            with replacing(folder / f"{FILE}{ending}") as temporary:
                temporary.write_text(text, encoding="utf-8")
        with replacing(folder / f"{FILE}.png") as temporary:
            draw(temporary, audits)
    except OSError as error:
        raise FednnUNetError(
            f"{folder / FILE} cannot be written ({error.strerror}): choose another folder with -o."
        ) from error
    return content


def _markdown(settings: PrivacyAuditSettings, audits: Mapping[ModelName, Audit]) -> str:
    told = [f"* {sentence}" for name, audit in audits.items() for sentence in sentences(name, audit)]
    rows = [[Markdown(cell) for cell in _cells(name, audit)] for name, audit in audits.items()]
    lines = [
        "# What the models tell about who has trained them",
        "",
        *(markdown_table(["dataset", "model", "fold", "checkpoint"], [_which(settings)])),
        "",
        *told,
        "",
        *markdown_table(_COLUMNS, rows),
        "",
        *(f"{note}\n" for note in notes(settings, audits)),
        f"![Losses and ROC curves]({FILE}.png)",
        "",
        f"{FILE}.json has the scores of each case. Nothing of this has left the site.",
    ]
    return "\n".join([*lines, ""])


def _which(settings: PrivacyAuditSettings) -> list[str]:
    return [settings.dataset, settings.model_name(), settings.fold, settings.checkpoint]


def _cells(name: ModelName, audit: Audit) -> list[str]:
    found = audit.by_loss
    recognized = MISSING if found.recognized is None else f"{found.recognized} of {found.trained}"
    figures = [_estimate(found), _estimate(audit.by_dice), recognized, found.verdict]
    return [name, str(found.trained), str(found.held_out), *figures]


def _estimate(found: Attack) -> str:
    if found.auc is None:
        return MISSING
    if found.auc.low is None or found.auc.high is None:
        return f"{found.auc.value:.2f}"
    return f"{found.auc.value:.2f} [{found.auc.low:.2f}, {found.auc.high:.2f}]"


def _recognized(found: Attack) -> str:
    return (
        f"{found.recognized} of the {counted(found.trained, 'case')} that have trained have a lower loss than all "
        f"{found.held_out} held-out ones: a stranger would recognize them without a false alarm among these (a "
        f"false-positive rate below 1 in {found.held_out})."
    )


def _hundred(share: float) -> str:
    return f"{100 * share:.0f}"


def _audit_as_json(name: ModelName, audit: Audit) -> dict[str, Any]:
    return {
        "paired": audit.paired,
        "result": audit.by_loss.verdict,
        "text": " ".join(sentences(name, audit)),
        "by_loss": _attack_as_json(audit.by_loss),
        "by_dice": _attack_as_json(audit.by_dice),
        "cases": list(_cases(audit)),
    }


def _attack_as_json(found: Attack) -> dict[str, Any]:
    auc = None if found.auc is None else {"value": found.auc.value, "low": found.auc.low, "high": found.auc.high}
    rates = {}
    if found.recognized is not None:
        rates = {
            "true_positive_rate": found.recognized / found.trained,
            "false_positive_rate_below": 1 / found.held_out,
        }
    return {"trained": found.trained, "held_out": found.held_out, "auc": auc, **rates}


def _cases(audit: Audit) -> Iterator[dict[str, Any]]:
    for group, trained in ((audit.trained, True), (audit.held_out, False)):
        for case, score in group.items():
            yield {"case": case, "trained": trained, "loss": score.loss, "dice": score.dice}
