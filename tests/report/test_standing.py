from typing import get_args

import pytest

from fednnunet.events.events import StageKind, StageStarted
from fednnunet.events.run_state import RunState
from fednnunet.report.standing import condition, stage_title
from tests.report.test_progress import every_kind_of_event


@pytest.mark.parametrize("stage", get_args(StageKind))
def test_every_stage_has_a_title_and_those_of_a_fold_name_it(stage):
    title = stage_title(StageStarted(stage=stage, fold="7"))
    assert ("fold 7" in title) == (stage in ("preparing", "training", "validating", "personal", "alone"))


def test_where_a_run_stands_changes_with_its_milestones():
    run, told = RunState(), []
    for event in every_kind_of_event():
        run.take(event)
        told.append(condition(run).partition(" · ")[0])
    assert list(dict.fromkeys(told)) == [
        "waiting for sites, 1 of 2 joined",
        "training fold 0",
        "common fingerprint found",
        "planning",
        "plans agreed",
        "fold 0 validated",
        "models of fold 0 compared",
        "model written",
        "fold 0 tested",
        "finished after 0:01:00",
    ]
