"""Who looks at a run sees that it waits for a person, and where."""

from rich.console import Console

from fednnunet.events.events import ApprovalAwaited, Contact, StageStarted
from fednnunet.events.run_state import RunState
from fednnunet.report.standing import condition
from fednnunet.report.status import Status, status_screen


def test_the_page_says_where_a_persons_yes_is_awaited_until_it_is_there() -> None:
    state = RunState()
    state.take(StageStarted(stage="training", fold="0", rounds=3))
    for site in ("B", "A"):
        state.take(ApprovalAwaited(site=site, waits=True))
    assert "waiting for approval at A, B" in condition(state)
    state.take(ApprovalAwaited(site="A", waits=False))
    assert "waiting for approval at B" in condition(state)
    state.take(ApprovalAwaited(site="B", waits=False))
    assert "person" not in condition(state)


def test_the_status_says_so_too() -> None:
    sites = {"A": Contact(connected=True, at=0), "B": Contact(connected=True, at=0, waits_for_approval=True)}
    console = Console(width=100, record=True)
    console.print(status_screen(Status(sites=sites), 1.0))
    assert "Waiting for approval at B" in console.export_text()
