# ruff: noqa: RUF001 (the dash that stands for a missing number)
import contextlib
import io
import math
import os
import pty
import re
import subprocess
import sys
from typing import get_args

import pytest
from rich.console import Console

from fednnunet.events.events import (
    ApprovalAwaited,
    Event,
    FingerprintFound,
    Finished,
    FoldValidated,
    GainTold,
    ModelExported,
    PlansAgreed,
    RoundCompleted,
    RoundTiming,
    SharingAgreed,
    SiteJoined,
    SiteLeftOut,
    SiteProgress,
    SitesAwaited,
    SitesEvaluated,
    SiteShare,
    SiteTakenIn,
    StageStarted,
    Traffic,
    UpdateOutOfLine,
    WorkProgressed,
)
from fednnunet.protocol.messages import (
    EvaluationReport,
    Gain,
    GainReport,
    MetricSummaries,
    MetricSummary,
    PairedDifference,
    RoundReport,
    ValidationReport,
)
from fednnunet.report.formats import duration, mean, number, validation_table
from fednnunet.report.gain_tables import gain_rows
from fednnunet.report.live import LiveProgress
from fednnunet.report.plain import PlainProgress
from fednnunet.report.progress import progress_for


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def plain_console(width=200):
    return Console(file=io.StringIO(), width=width)


def live_console(width=120, **options):
    return Console(file=io.StringIO(), width=width, height=30, force_terminal=True, **options)


def written(console):
    return console.file.getvalue()


def report(dice=0.8, train=-0.5, val=-0.4, **labels):
    return RoundReport(train_loss=train, val_loss=val, mean_dice=dice, dice=labels)


def completed(number, rounds, seconds, **sites):
    return RoundCompleted(round=number, rounds=rounds, seconds=seconds, sites=sites)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (84, "0:01:24"), (90_000, "25:00:00"), (-3, "0:00:00")]
)
def test_duration_is_hours_minutes_seconds(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("value", [None, math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_a_dash(value):
    assert number(value, 2) == "–"


def test_mean_leaves_out_what_is_missing():
    assert mean([0.5, None, math.nan, 1.0]) == 0.75
    assert mean([None, math.nan]) is None


def test_plain_round_is_one_line_with_eta_losses_and_dice():
    console = plain_console(width=40)
    progress = PlainProgress(console)
    progress.emit(SiteJoined(site="A", cases=12, joined=2, expected=3))
    progress.emit(StageStarted(stage="training", fold="0", rounds=10, first_round=3))
    progress.emit(completed(3, 10, 12.1, A=report(0.81, train=-0.5, tumour=0.7, liver=0.92), B=report(0.79, None)))
    assert written(console).splitlines() == [
        "site A joined, 12 cases (2/3)",
        "training fold 0: 10 rounds, from round 3",
        "round 3/10 · 12.1 s · ETA 0:01:25 · loss -0.5000, val -0.4000 "
        "· pseudo Dice A 0.81 (tumour 0.70, liver 0.92) B 0.79",
    ]


def test_plain_round_shows_dashes_and_no_eta_at_the_end():
    console = plain_console()
    progress = PlainProgress(console)
    progress.emit(completed(10, 10, 5.0, A=report(None, math.nan, math.nan, a=None, b=math.nan)))
    progress.emit(Finished(seconds=75))
    assert written(console).splitlines() == [
        "round 10/10 · 5.0 s · loss –, val – · pseudo Dice A – (a –, b –)",
        "finished after 0:01:15",
    ]


@pytest.mark.parametrize(
    ("ratio", "what"),
    [
        (12.3, "is 12 times the median of the others"),
        (1e32, "is 1e+32 times the median of the others"),
        (None, "changes the model, while those of most others do not"),
    ],
)
def test_an_update_that_is_out_of_line_is_one_line_in_either_display(ratio, what):
    event = UpdateOutOfLine(site="[b]A", round=3, ratio=ratio)
    line = f"round 3 · the update of site [b]A {what}"
    console = plain_console(width=40)
    PlainProgress(console).emit(event)
    assert written(console).splitlines() == [line]
    console = live_console(no_color=True)
    with LiveProgress(console) as progress:
        progress.emit(event)
    assert line in written(console)


def test_a_new_stage_forgets_how_long_the_rounds_of_the_last_one_took():
    console = plain_console()
    progress = PlainProgress(console)
    progress.emit(completed(1, 2, 1000.0, A=report()))
    progress.emit(StageStarted(stage="training", fold="1", rounds=3))
    progress.emit(completed(1, 3, 4.0, A=report()))
    assert "ETA 0:00:08" in written(console).splitlines()[-1]


def worked(**done):
    return WorkProgressed(sites={site: SiteProgress(done=cases, total=10) for site, cases in done.items()})


def test_plain_lines_tell_of_each_quarter_of_the_work_and_what_the_fingerprint_took():
    console = plain_console()
    progress = PlainProgress(console)
    progress.emit(StageStarted(stage="reading"))
    for done in (0, 1, 4, 5, 6, 7, 10):
        progress.emit(worked(A=done, B=done))
    progress.emit(FingerprintFound(questions=25, answered_bytes={"A": 21400, "B": 21500}))
    progress.emit(StageStarted(stage="preprocessing"))
    progress.emit(worked(A=3, B=3))
    assert written(console).splitlines() == [
        "reading images",
        "cases 8/20 · A 4/10 B 4/10",
        "cases 10/20 · A 5/10 B 5/10",
        "cases 20/20 · A 10/10 B 10/10",
        "common fingerprint found with 25 questions, 21.5 kB from each site",
        "preprocessing",
        "cases 6/20 · A 3/10 B 3/10",
    ]


def test_live_region_shows_how_far_each_site_is_and_when_all_will_be():
    console, clock = live_console(), Clock()
    with LiveProgress(console, history=False, clock=clock) as progress:
        progress.emit(StageStarted(stage="reading"))
        clock.now += 30
        console.file.truncate(0)
        progress.emit(worked(A=2, B=3))
        shown = written(console)
    for text in ("reading images", "5/20", "0:00:30 ETA 0:01:30", "2/10", "3/10"):
        assert text in shown


def test_what_a_site_calls_itself_cannot_steer_the_terminal():
    console = plain_console()
    PlainProgress(console).emit(SiteJoined(site="[red]A\x1b[2J\n", cases=1, joined=1, expected=1))
    assert written(console) == "site [red]A?[2J? joined, 1 case (1/1)\n"


def test_validation_table_has_every_label_and_the_mean_of_the_sites():
    console = plain_console()
    event = FoldValidated(
        fold="0",
        sites={
            "A": ValidationReport(mean_dice=0.8, dice={"liver": 0.9, "tumour": 0.7}),
            "B": ValidationReport(mean_dice=0.6, dice={"liver": 0.6, "tumour": None}),
        },
    )
    console.print(validation_table(event))
    rows = [line.replace("│", " ").replace("┃", " ").split() for line in written(console).splitlines()]
    assert ["site", "liver", "tumour", "mean"] in rows
    assert ["A", "0.9000", "0.7000", "0.8000"] in rows
    assert ["B", "0.6000", "–", "0.6000"] in rows
    assert ["mean", "0.7500", "0.7000", "0.7000"] in rows


def test_no_number_of_a_validation_is_cut_off_however_many_there_are():
    console = plain_console(width=40)
    dice = {f"organ {i}": i / 100 for i in range(60)}
    PlainProgress(console).emit(FoldValidated(fold="0", sites={"A": ValidationReport(mean_dice=0.5, dice=dice)}))
    for label, value in dice.items():
        assert label in written(console)
        assert f"{value:.4f}" in written(console)
    assert "…" not in written(console)


def last_frame(console, progress):
    """What stands in the region now."""
    console.file.seek(0)
    console.file.truncate()
    progress._live.refresh()
    return re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", written(console))


def test_live_region_shows_rounds_elapsed_time_and_eta_that_runs_down():
    clock = Clock()
    console = live_console(no_color=True)
    with LiveProgress(console, history=False, clock=clock) as progress:
        progress.emit(StageStarted(stage="training", fold="0", rounds=10))
        clock.now += 30
        assert "0/10 0:00:30 ETA –" in last_frame(console, progress)
        progress.emit(completed(1, 10, 30.0, A=report()))
        clock.now += 12
        assert "1/10 0:00:42 ETA 0:04:18" in last_frame(console, progress)
        progress.emit(completed(10, 10, 30.0, A=report()))
        frame = last_frame(console, progress)
        assert "10/10" in frame
        assert "ETA" not in frame


def test_live_table_gives_labels_while_they_fit_and_dashes_for_missing_numbers():
    event = completed(
        1, 2, 1.0, A=report(0.81, math.nan, None, liver=0.9, tumour=None), B=report(0.7, liver=0.8, tumour=0.6)
    )
    console = live_console(no_color=True)
    with LiveProgress(console, history=False) as progress:
        progress.emit(event)
        rows = [line.split() for line in last_frame(console, progress).splitlines()]
        assert ["A", "–", "–", "0.8100", "0.9000", "–"] in rows
        assert ["B", "-0.5000", "-0.4000", "0.7000", "0.8000", "0.6000"] in rows
    narrow = live_console(width=44, no_color=True)
    with LiveProgress(narrow, history=False) as progress:
        progress.emit(event)
        frame = last_frame(narrow, progress)
        assert "liver" not in frame
        assert ["B", "-0.5000", "-0.4000", "0.7000"] in [line.split() for line in frame.splitlines()]
    narrower = live_console(width=24, no_color=True)
    with LiveProgress(narrower, history=False) as progress:
        progress.emit(event)
        assert ["B", "0.7000"] in [line.split() for line in last_frame(narrower, progress).splitlines()]


@pytest.mark.parametrize("width", [10, 20, 44, 80])
def test_live_region_is_never_wider_than_the_terminal(width):
    console = live_console(width=width, no_color=True)
    with LiveProgress(console, history=False) as progress:
        progress.emit(StageStarted(stage="training", fold="0", rounds=1000))
        progress.emit(completed(1, 1000, 1.0, Dataset511_Hospital_A=report(a=0.1, b=0.2)))
        segments = console.render_lines(progress._view, pad=False)
    assert all(sum(segment.cell_length for segment in line) <= width for line in segments)


def test_history_stands_above_the_region_and_can_be_left_out():
    for history in (True, False):
        console = live_console(no_color=True)
        with LiveProgress(console, history=history) as progress:
            progress.emit(completed(1, 2, 1.0, A=report()))
            progress.console.print("a line of its own")
        assert ("round 1/2 · 1.0 s" in written(console)) is history
        assert "a line of its own" in written(console)


def test_no_color_is_respected(monkeypatch):
    monkeypatch.setenv("NO_COLOR", "1")
    console = live_console(color_system="truecolor")
    with LiveProgress(console) as progress:
        progress.emit(StageStarted(stage="training", fold="0", rounds=2))
        progress.emit(completed(1, 2, 1.0, A=report()))
    assert "\x1b[3" not in written(console).replace("\x1b[3m", "")


def test_a_pipe_gets_plain_lines_even_where_colour_is_forced(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    console = Console(file=io.StringIO())
    assert console.is_terminal
    with progress_for(console) as progress:
        assert isinstance(progress, PlainProgress)


def test_a_terminal_gets_the_live_display(monkeypatch):
    console = live_console()
    monkeypatch.setattr(console.file, "isatty", lambda: True, raising=False)
    with progress_for(console) as progress:
        assert isinstance(progress, LiveProgress)


def every_kind_of_event():
    """One event of each kind, as a coordinator would emit them."""
    summary = MetricSummary(mean=0.875, cases=4)
    metrics = MetricSummaries(dice=summary, hd95=summary, assd=summary)
    events = [
        SiteJoined(site="A", cases=1, joined=1, expected=2),
        StageStarted(stage="training", fold="0", rounds=2),
        worked(A=3),
        FingerprintFound(questions=2, answered_bytes={"A": 10}),
        PlansAgreed(),
        PlansAgreed(fingerprint={"spacings": []}, plans={"configurations": {"2d": {}, "3d_fullres": {}}}),
        SharingAgreed(sites={"A": SiteShare(tensors=1, of_tensors=2, parameters=1, of_parameters=4)}),
        SiteLeftOut(site="B", round=1, reason="its connection broke"),
        SiteTakenIn(site="B", round=1),
        UpdateOutOfLine(site="A", round=1, ratio=7.0),
        SitesAwaited(sites=["B"], present=1, needed=2),
        ApprovalAwaited(site="A", waits=True),
        COSTLY,
        FoldValidated(fold="0", sites={"A": ValidationReport(mean_dice=0.75, dice={})}),
        GainTold(fold="0", sites={"A": GainReport(advice="federated")}),
        ModelExported(folder="results", archive="model.zip", folds=["0", "1"]),
        SitesEvaluated(
            fold="0",
            checkpoint="checkpoint_final",
            sites={"A": EvaluationReport(labels={}, overall=metrics)},
            left_out={"B": "it has no test cases"},
        ),
        Finished(seconds=60),
    ]
    assert {type(event) for event in events} == set(get_args(Event))
    return events


COSTLY = RoundCompleted(
    round=2,
    rounds=9,
    seconds=12.0,
    sites={"A": report(), "B": report()},
    left_out={"C": "its connection broke"},
    timing=RoundTiming(training={"A": 8.0, "B": 4.0}, validating={"A": 1.0, "B": 1.0}, moving=1.5, averaging=0.5),
    traffic={site: Traffic(to_site=500_000, from_site=1_250_000) for site in "AB"},
)
COSTS = (
    "training 6.0 s, waiting 2.0 s, moving 1.5 s, averaging 0.5 s, validating 1.0 s, other 1.0 s",
    "2.5 MB from sites, 1.0 MB to sites",
    "without C",
)


def test_a_plain_round_tells_what_takes_the_time_how_much_has_moved_and_who_was_missing():
    console = plain_console(width=40)
    PlainProgress(console).emit(COSTLY)
    assert written(console).endswith("· " + " · ".join(COSTS) + "\n")


def test_live_region_tells_costs_missing_sites_and_failures():
    console = live_console(no_color=True)
    with LiveProgress(console, history=False) as progress:
        progress.emit(SiteLeftOut(site="C", round=1, reason="its connection broke"))
        progress.emit(SiteLeftOut(site="C", round=2, reason="its connection broke"))
        progress.emit(COSTLY)
        frame = [line.strip() for line in last_frame(console, progress).splitlines()]
    for line in (*COSTS, "2 failures so far"):
        assert line in frame


@pytest.mark.parametrize("width", [10, 200])
def test_every_event_is_shown_in_every_display(width):
    for event in every_kind_of_event():
        plain = plain_console(width)
        PlainProgress(plain).emit(event)
        assert written(plain).strip()
        console = live_console(width, no_color=True)
        with LiveProgress(console, history=False) as progress:
            progress.emit(event)
            lines = console.render_lines(progress._view, pad=False)
        assert all(sum(segment.cell_length for segment in line) <= width for line in lines)


def test_quiet_shows_results_and_what_needs_attention_only():
    console = plain_console()
    with progress_for(console, quiet=True) as progress:
        for event in every_kind_of_event():
            progress.emit(event)
    text = written(console)
    for shown in (
        "round 1 · without site B: its connection broke",
        "site B rejoins",
        "the update of site A is 7 times",
        "waiting for B",
        "site A waits for a person's approval",
        "Validation of fold 0: Dice",
        "Benefit of the federation, fold 0",
        "model of folds 0, 1 written to results and model.zip",
        "0.8750",
        "not evaluated at site B: it has no test cases",
        "finished after 0:01:00",
    ):
        assert shown in text
    for hidden in ("joined", "training fold 0", "3/10", "fingerprint", "round 2/9", "shares"):
        assert hidden not in text


def test_quiet_shows_no_live_display_on_a_terminal(monkeypatch):
    console = live_console()
    monkeypatch.setattr(console.file, "isatty", lambda: True, raising=False)
    with progress_for(console, quiet=True) as progress:
        progress.emit(StageStarted(stage="training", fold="0", rounds=2))
    assert written(console) == ""


COLOUR = re.compile(rb"\x1b\[(?:3[0-8]|4[0-8]|9[0-7]|10[0-7])[;0-9]*m")

SHOW = """
import logging
from rich.console import Console
from fednnunet.cli.commands import _ConsoleHandler
from fednnunet.launcher.processes import Process
from fednnunet.launcher.supervision import run_together
from fednnunet.events.events import RoundCompleted, StageStarted
from fednnunet.report.progress import progress_for
from fednnunet.protocol.messages import RoundReport
import sys, pathlib
console = Console(highlight=False)
site = RoundReport(train_loss=0, val_loss=0, mean_dice=0.5, dice={})
with progress_for(console) as progress:
    progress.emit(StageStarted(stage="training", fold="0", rounds=2))
    progress.emit(RoundCompleted(round=1, rounds=2, seconds=1, sites={"A": site}))
    _ConsoleHandler(console).handle(logging.LogRecord("x", logging.WARNING, "", 1, "a warning", None, None))
folder = pathlib.Path(sys.argv[1])
say = [sys.executable, "-c", r"print('\\x1b[31mred\\x1b[0m')"]
run_together(Process("coordinator", say, folder / "1"), [Process("site", say, folder / "2")], console, folder / "e")
console.print("[bold red]Error:[/] an error")
"""


def in_a_terminal(tmp_path, **environment):
    """What the displays write where the output is a terminal."""
    master, slave = pty.openpty()
    own = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "TERM")}
    process = subprocess.Popen(
        [sys.executable, "-c", SHOW, str(tmp_path)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env={**own, "TERM": "xterm-256color", **environment},
    )
    os.close(slave)
    chunks = []
    with contextlib.suppress(OSError):  # which is how a terminal ends
        while chunk := os.read(master, 65536):
            chunks.append(chunk)
    os.close(master)
    assert process.wait(60) == 0, b"".join(chunks)
    return b"".join(chunks)


def test_a_terminal_gets_colours_unless_no_color_is_set_whatever_force_color_says(tmp_path):
    assert COLOUR.search(in_a_terminal(tmp_path))
    for environment in ({"NO_COLOR": "1"}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}):
        text = in_a_terminal(tmp_path, **environment)
        assert b"red" in text
        assert b"Warning: a warning" in text
        assert COLOUR.search(text) is None


def test_what_the_federation_gave_is_a_table_with_intervals_and_advice():
    difference = PairedDifference(mean=0.0391, low=0.0204, high=0.058)
    alone = Gain(federated=0.79, alone=0.905, federated_over_alone=PairedDifference(mean=-0.115, low=None, high=None))
    event = GainTold(
        fold="0",
        sites={
            "A": GainReport(
                overall=Gain(federated=0.874, personal=0.913, personal_over_federated=difference, cases=12),
                labels={"organ": Gain(), "lesion": Gain()},
                advice="personal",
                is_certain=True,
            ),
            "B": GainReport(overall=alone.model_copy(update={"cases": 5}), advice="alone", is_certain=True),
            "C": GainReport(),
        },
    )
    console = plain_console(width=40)
    PlainProgress(console).emit(event)
    rows = [line.replace("│", " ").split() for line in written(console).splitlines()]
    assert ["A", "12", "0.8740", "0.9130", "–", "+0.039", "[+0.020,", "+0.058]", "–", "–", "personal"] in rows
    told = "B 5 0.7900 – 0.9050 – -0.115 – alone: better off without the federation"
    assert told.split() in rows
    assert ["C", *["–"] * 8] in rows
    assert [name for name, _ in gain_rows(event.sites["A"], labels=True)] == ["all labels", "organ", "lesion"]
