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

FILE = "privacy_audit"
"""Of the report, ``.json``, ``.md`` and ``.png``."""

_COLUMNS = ("model", "trained on", "held out", "AUC by loss", "AUC by Dice", "recognized", "result")
_MEANINGS = {
    "tells": "it reveals which cases it was trained on, by more than chance",
    "little": "hardly better than guessing",
    "unclear": "too few cases to say whether that is better than guessing",
}
_NOTE = (
    "AUC: the share of pairs, of a case that the model was trained on and a held-out one, in which the first has the "
    "lower loss (the higher Dice), with its 95 % bootstrap interval; 0.5 is guessing, 1 certainty. Recognized: cases "
    "trained on with a lower loss than every held-out case."
)
_NOTE_PAIRED = (
    "AUC: the share of cases with a lower loss (a higher Dice) at the models trained on them than at the one that was "
    "not, with its 95 % bootstrap interval; 0.5 is guessing, 1 certainty. This attacker has models with and without "
    "the case, which a stranger with one model has not, and usually finds more."
)
_NOTE_OWN = "The site's own models never leave it; they are there for comparison."
_NOTE_TESTS = (
    "Test cases are among the held-out ones: if they differ from the training cases in other ways, such as scanner or "
    "year, the figures include that difference."
)
_NOTE_BOUND = "Attackers who know more may find more: a low figure is no guarantee."


def sentence(name: ModelName, audit: Audit) -> str:
    """Return in plain words what a model has given away.

    Parameters
    ----------
    name
        Which one it is.
    audit
        What was found.
    """
    found, title = audit.by_loss, TITLES[name].capitalize()
    cases = f"{found.trained} pairs" if audit.paired else f"trained on {found.trained}, held out {found.held_out}"
    if found.verdict == "too few cases":
        return f"{title}: too few cases to say ({cases}; at least {FEWEST} {'' if audit.paired else 'each '}needed)."
    assert found.auc is not None
    assert found.auc.low is not None
    assert found.auc.high is not None
    right, low, high = (f"{100 * share:.0f}" for share in (found.auc.value, found.auc.low, found.auc.high))
    interval = f"(95 % interval {low} to {high}; guessing: 50)"
    if audit.paired:
        told = (
            f"{right} % of your {found.trained} cases are fitted better by the models trained on them than by the one "
            "that was not"
        )
        return f"{title}: {told} {interval}: {_MEANINGS[found.verdict]}."
    told = (
        "a stranger who has it and is handed two of your cases, one of them trained on, picks that one in "
        f"{right} of 100 such pairs"
    )
    return f"{title}: {told} {interval}: {_MEANINGS[found.verdict]}. {_recognized(found)}"


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
    told = [f"* {sentence(name, audit)}" for name, audit in audits.items()]
    rows = [[Markdown(cell) for cell in _cells(name, audit)] for name, audit in audits.items()]
    lines = [
        "# What the models tell about the cases that they were trained on",
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
    number = "None" if not found.recognized else str(found.recognized)
    return (
        f"{number} of the {found.trained} cases trained on would be recognized without a false alarm among the "
        f"{found.held_out} held-out ones (false-positive rate below 1/{found.held_out})."
    )


def _audit_as_json(name: ModelName, audit: Audit) -> dict[str, Any]:
    return {
        "paired": audit.paired,
        "result": audit.by_loss.verdict,
        "text": sentence(name, audit),
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
