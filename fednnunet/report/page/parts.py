"""Assembles the parts of a run's page in order."""

from collections.abc import Iterable
from dataclasses import replace

from fednnunet.events.events import Event
from fednnunet.events.run_state import RunState
from fednnunet.report.page.cost import cost_parts
from fednnunet.report.page.drawn import slug
from fednnunet.report.page.overview import overview_parts, trouble_parts
from fednnunet.report.page.part import Part
from fednnunet.report.page.participation import participation_parts
from fednnunet.report.page.planning import planning_parts
from fednnunet.report.page.quality import evaluation_parts, export_parts, gain_parts, validation_parts
from fednnunet.report.page.training_curves import training_parts

_MAKERS = (
    overview_parts,
    training_parts,
    validation_parts,
    gain_parts,
    evaluation_parts,
    cost_parts,
    participation_parts,
    trouble_parts,
    planning_parts,
    export_parts,
)


def parts_of(events: Iterable[Event], prefix: str = "") -> list[Part]:
    """Return the parts that show these events, those for which there is something to show.

    Parameters
    ----------
    events
        Events of one run, in the order in which they happened.
    prefix
        What stands before the titles, where one page shows several runs.
    """
    return parts_of_run(RunState.of(events), prefix)


def parts_of_run(run: RunState, prefix: str = "") -> list[Part]:
    """Return the parts that show a run; see `parts_of`."""
    parts = [part for make in _MAKERS for part in make(run)]
    if not prefix:
        return parts
    return [replace(part, id=f"{slug(prefix)}-{part.id}", title=f"{prefix}: {part.title}") for part in parts]
