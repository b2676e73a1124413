"""Charts losses and pseudo Dice over the rounds."""

from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import escape

from fednnunet.events.events import RoundCompleted
from fednnunet.events.run_state import RunState
from fednnunet.protocol.messages import RoundReport
from fednnunet.report.formats import MEAN, labels_of, own_name
from fednnunet.report.page.charts import Floats, Lines, choice, legend, line_figure
from fednnunet.report.page.drawn import Drawn, drawn_folds
from fednnunet.report.page.part import Figure, Part

_MOST_NUMBERS = 150_000  # of all folds together: the page is to stay below 3 MB
_MOST_LABELS = 12

_Value = Callable[[RoundReport], float | None]


def training_parts(run: RunState) -> list[Part]:
    """Return a part for each fold of which a round is complete."""
    labels = labels_of(
        report.dice for fold in run.folds.values() for event in fold.completed.values() for report in _reports(event)
    )
    shown = labels[:_MOST_LABELS]
    numbers = len(run.sites) * (3 + len(shown))
    of_labels = f" (the first {len(shown)} of {len(labels)} labels)" if len(shown) < len(labels) else ""
    return [_part(run, drawn, shown, of_labels) for drawn in drawn_folds(run, numbers, _MOST_NUMBERS)]


def _part(run: RunState, drawn: Drawn, labels: Sequence[str], of_labels: str) -> Part:
    of_sites = own_name(MEAN, run.names)

    def columns(value: _Value) -> dict[str, Floats]:
        return _columns(run.names, drawn.events, value)

    dice = {own_name("mean over labels", labels): columns(lambda report: report.mean_dice)}
    if len(labels) > 1:
        dice |= {label: columns(_dice_of(label)) for label in labels}
    name = f"dice {drawn.slug}"
    caption = escape(drawn.told(f"Pseudo Dice of the global model{of_labels}")) + choice(name, "of", list(dice))
    figures: list[Figure] = [(caption, line_figure(Lines(name, "Dice", drawn.rounds, dice, of_sites, (0.0, 1.0))))]
    losses: tuple[tuple[str, str, _Value], ...] = (
        ("train loss", "Training loss", lambda report: report.train_loss),
        ("val loss", "Validation loss of the global model", lambda report: report.val_loss),
    )
    for word, title, value in losses:
        lines = Lines(f"{word} {drawn.slug}", "loss", drawn.rounds, {"": columns(value)}, of_sites)
        figures.append((drawn.told(title), line_figure(lines)))
    if drawn.several:
        return Part(f"training-{drawn.slug}", f"Training, {drawn.fold.title}", legend(run.names, of_sites), figures)
    return Part("training", "Training", legend(run.names, of_sites), figures)


def _columns(sites: Sequence[str], events: Sequence[RoundCompleted], value: _Value) -> dict[str, Floats]:
    """Return a column for each site, and one for their mean."""
    rows = [{site: value(report) for site, report in event.sites.items()} for event in events]
    table = np.array([[row.get(site) for site in sites] for row in rows], float)  # None becomes NaN
    there = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        means = np.where(there, table, 0.0).sum(axis=1) / there.sum(axis=1)
    by_site = {site: table[:, i].astype(np.float32) for i, site in enumerate(sites)}
    return {**by_site, own_name(MEAN, sites): means.astype(np.float32)}


def _dice_of(label: str) -> _Value:
    return lambda report: report.dice.get(label)


def _reports(event: RoundCompleted) -> list[RoundReport]:
    return list(event.sites.values())
