"""What the page shows of made-up events; the numbers are worked out here anew."""

import json
import re
import statistics

import numpy as np
import pytest
from markupsafe import Markup

from fednnunet.errors import FednnUNetError
from fednnunet.events.events import (
    PlansAgreed,
    RoundCompleted,
    RoundTiming,
    SiteLeftOut,
    SitesAwaited,
    StageStarted,
    UpdateOutOfLine,
)
from fednnunet.events.run_state import RunState
from fednnunet.protocol.messages import RoundReport
from fednnunet.report.formats import MISSING
from fednnunet.report.page import Part, html_table, parts_of, pictures_part, render_page, write_page
from fednnunet.report.page.cost import seconds_of
from fednnunet.report.standing import condition
from tests.report.page.made_up import LABELS, SITES, a_round, a_run, a_training

HOSTILE = '<script>alert("x")</script>'


def part(parts, name):
    return next(part for part in parts if part.id == name)


def source(figure):
    return figure.renderers[0].data_source.data


def rows_of(html):
    rows = re.findall(r"<tr>(.*?)</tr>", str(html), re.DOTALL)
    cells = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL) for row in rows]
    return [[re.sub(r"<.*?>", "|", cell).strip("|") for cell in row] for row in cells]


def test_each_part_is_there_only_if_there_is_something_to_show():
    assert [part.id for part in parts_of([])] == ["overview"]
    names = "overview training validation gain evaluation time participation failures plan model"
    assert [part.id for part in parts_of(a_run())] == names.split()
    assert [part.id for part in parts_of([a_round(1, 2, SITES)])] == ["overview", "training", "time", "participation"]


def test_what_the_federation_gave_is_told_by_site_and_label_with_intervals():
    rows = rows_of(part(parts_of(a_run()), "gain").html)
    assert rows[0][:3] == ["site", "label", "cases"]
    figures = ["12", "0.9000", "0.9300", "–", "+0.030 [+0.010, +0.050]", "–", "–"]  # noqa: RUF001
    assert rows[1] == ["hospital-a", "all labels", *figures, "personal"]
    assert rows[2] == ["hospital-a", "liver", *figures, ""]
    assert len(rows) == 1 + 3 * 4


def test_lines_are_the_events_numbers_and_gaps_are_where_a_site_was_missing():
    events = a_training(12, SITES)
    rounds = [event for event in events if isinstance(event, RoundCompleted)]
    training = part(parts_of(events), "training")
    dice, train_loss, val_loss = (source(figure) for _, figure in training.figures)
    assert list(dice["round"]) == list(range(1, 13))
    choices = [lambda r: r.mean_dice, *(lambda r, label=label: r.dice[label] for label in LABELS)]
    for data, number, value in [
        *((dice, number, value) for number, value in enumerate(choices)),
        (train_loss, 0, lambda r: r.train_loss),
        (val_loss, 0, lambda r: r.val_loss),
    ]:
        for index, site in enumerate(SITES):
            expected = [value(e.sites[site]) if site in e.sites else np.nan for e in rounds]
            np.testing.assert_allclose(data[f"{number}:s{index}"], expected, rtol=1e-6)
        means = [statistics.fmean(value(report) for report in e.sites.values()) for e in rounds]
        np.testing.assert_allclose(data[f"{number}:mean"], means, rtol=1e-6)
    assert np.isnan(dice["0:s2"]).sum() == 2


def test_a_number_that_is_missing_leaves_a_gap_and_the_mean_is_of_the_others():
    report = RoundReport(train_loss=None, val_loss=1.0, mean_dice=None, dice={"liver": None})
    event = RoundCompleted(
        round=1, rounds=1, seconds=1.0, sites={"A": report, "B": report.model_copy(update={"train_loss": 3.0})}
    )
    dice, train_loss, _ = (source(figure) for _, figure in part(parts_of([event]), "training").figures)
    assert np.isnan([dice["0:s0"], dice["0:mean"], train_loss["0:s0"]]).all()
    assert list(train_loss["0:mean"]) == [3.0]


def test_rounds_that_come_again_after_a_restart_replace_those_that_were_there():
    again = a_round(6, 9, SITES, seed=5)
    events = [
        *a_training(7, SITES, of_rounds=9),
        StageStarted(stage="training", fold="0", rounds=9, first_round=6),
        again,
    ]
    data = source(part(parts_of(events), "training").figures[0][1])
    assert list(data["round"]) == [1, 2, 3, 4, 5, 6]
    assert data["0:s0"][-1] == np.float32(again.sites[SITES[0]].mean_dice)


def test_each_fold_has_a_part_of_its_own_with_its_own_rounds():
    events = [
        *a_training(5, SITES, fold="0"),
        StageStarted(stage="validating", fold="0"),
        *a_training(3, SITES, fold="1"),
    ]
    parts = parts_of(events)
    assert [p.id for p in parts if p.id.startswith("training")] == ["training-fold-0", "training-fold-1"]
    for name, rounds in (("training-fold-0", 5), ("training-fold-1", 3)):
        assert len(source(part(parts, name).figures[0][1])["round"]) == rounds
    assert len(part(parts, "participation").figures) == 2
    assert len(part(parts, "time").figures) == 4


def test_the_parts_of_a_round_are_as_long_as_the_round():
    timing = RoundTiming(
        training={"A": 10.0, "B": 14.0, "C": 30.0, "left out": 99.0},
        moving=2.0,
        averaging=0.5,
        validating={"A": 4.0, "B": 5.0, "C": 5.5},
    )
    report = RoundReport(train_loss=None, val_loss=None, mean_dice=None, dice={})
    event = RoundCompleted(round=1, rounds=2, seconds=40.0, sites=dict.fromkeys("ABC", report), timing=timing)
    expected = dict(training=14.0, waiting=16.5, moving=2.0, averaging=0.5, validating=5.0, other=2.0)
    assert seconds_of(event) == expected
    assert sum(expected.values()) == 40.0
    assert seconds_of(event.model_copy(update={"timing": None}))["other"] == 40.0
    figure = part(parts_of([event]), "time").figures[0][1]
    data = source(figure)
    tops = [data[f"{kind} to"][0] for kind in expected]
    assert tops == list(np.float32(np.cumsum(list(expected.values()))))


def test_bytes_are_drawn_in_each_direction_and_summed():
    events = a_training(12, SITES)
    time = part(parts_of(events), "time")
    data = source(time.figures[1][1])
    np.testing.assert_allclose(data["0:s0"], [31 + n / 1e6 for n in range(1, 13)], rtol=1e-6)
    np.testing.assert_allclose(data["1:s0"], [62 + n / 1e6 for n in range(1, 13)], rtol=1e-6)
    of_c = sum(31_000_000 + n for n in range(1, 13) if n not in (5, 6)) / 1e6
    rows = {row[0]: row for row in rows_of(time.below)}
    assert rows["hospital-c"][3] == f"{of_c:.2f}"
    of_all = 2 * sum(31_000_000 + n for n in range(1, 13)) / 1e6 + of_c
    assert rows["all sites"][3] == f"{of_all:.2f}"


def test_the_matrix_tells_who_took_part_who_was_left_out_and_why_and_who_was_absent():
    events = [
        StageStarted(stage="training", fold="0", rounds=4),
        a_round(1, 4, SITES),
        SiteLeftOut(site="hospital-b", round=2, reason="late"),
        a_round(2, 4, SITES, left_out={"hospital-b": "late"}),
        SiteLeftOut(site="hospital-a", round=3, reason="came again in the same round"),
        a_round(3, 4, SITES),
        a_round(4, 4, SITES[:2], left_out={"hospital-a": "disk full"}),
    ]
    participation = part(parts_of(events), "participation")
    data = source(participation.figures[0][1])
    # rows from below: c, b, a
    assert data["image"][0].tolist() == [[0, 0, 0, 1], [0, 2, 0, 0], [0, 0, 0, 3]]
    assert data["sites"] == [list(SITES)]
    assert data["reasons"] == [["late", "disk full"]]
    assert (data["x"], data["width"], data["rounds"]) == ([0.5], [4], [[1, 2, 3, 4]])
    assert rows_of(participation.below)[1:] == [
        ["hospital-a", "3", "1", "0", "disk full"],
        ["hospital-b", "3", "1", "0", "late"],
        ["hospital-c", "3", "0", "1", MISSING],
    ]


def test_failures_are_listed_the_last_first():
    events = [
        *a_training(2, SITES[:2], of_rounds=9),
        SiteLeftOut(site="A", round=2, reason="late"),
        UpdateOutOfLine(site="B", round=2, ratio=12.0),
        SitesAwaited(sites=["A", "C"], present=1, needed=3),
        SitesAwaited(sites=[], present=3, needed=3),
    ]
    rows = rows_of(part(parts_of(events), "failures").html)
    assert rows[1:4] == [
        ["fold 0", "3", "A, C", "awaited", "1 of 3 sites are ready"],
        ["fold 0", "2", "B", "outlier update", "its update is 12 times the median of the others"],
        ["fold 0", "2", "A", "left out", "late"],
    ]


def test_the_state_says_whether_the_run_goes_on_waits_or_is_finished():
    events = a_training(4, SITES, of_rounds=10)
    state = RunState.of(events)
    times = [event.seconds for event in events if isinstance(event, RoundCompleted)]
    assert state.remaining == pytest.approx(6 * statistics.median(times))
    assert condition(state).startswith("training fold 0 · round 4/10 · about 0:0")
    state.take(SitesAwaited(sites=["hospital-b"], present=2, needed=3))
    assert condition(state).endswith("waiting for hospital-b: 2 of 3 sites are ready")
    state.take(SitesAwaited(sites=[], present=3, needed=3))
    assert "waiting" not in condition(state)
    assert condition(RunState.of(a_run())) == "finished after 5:02:05"


def test_scores_are_shown_by_site_and_label_with_dashes_where_a_number_was_kept_back():
    parts = parts_of(a_run())
    validation = rows_of(part(parts, "validation").html)
    assert validation[0] == ["site", *LABELS, "mean"]
    assert validation[1] == ["hospital-a", "0.9300", "0.9100", "0.8900", "0.9100"]
    assert validation[-1][1] == f"{statistics.fmean([0.93, 0.91, 0.89]):.4f}"
    evaluation = rows_of(part(parts, "evaluation").html)
    assert evaluation[0] == ["site", "all labels", *LABELS]
    assert evaluation[1][2] == "0.9000 ± 0.0340|12 cases"
    assert evaluation[2][4] == MISSING
    means = {site: float(row[2].partition(" ")[0]) for site, row in zip(("a", "b"), evaluation[1:3], strict=True)}
    pooled = (12 * means["a"] + 13 * means["b"]) / 25
    assert evaluation[3][0] == "all sites"
    assert evaluation[3][2].startswith(f"{pooled:.4f} ± ")
    assert evaluation[3][2].endswith("|25 cases")
    assert evaluation[3][4] == evaluation[1][4]  # only one site has told it
    assert evaluation[-1] == ["hospital-c", "it has no labelled test cases"]


def test_the_commands_to_use_the_exported_model_are_complete():
    html = str(part(parts_of(a_run()), "model").html)
    assert "nnUNetv2_install_pretrained_model_from_zip &#39;/data/runs/abdomen model.zip&#39;" in html
    assert (
        "nnUNetv2_predict -i IMAGES -o PREDICTIONS -d Dataset511_Abdomen -c 3d_fullres -f 0 -tr nnUNetTrainer "
        "-p nnUNetPlans" in html
    )


def test_fingerprint_and_plan_are_readable_and_configurations_inherit():
    plan = part(parts_of(a_run()), "plan")
    assert "<dd>2.5 × 0.78 × 0.78</dd>" in plan.html  # noqa: RUF001
    assert "<dd>142 × 512 × 480</dd>" in plan.html  # noqa: RUF001
    assert rows_of(plan.html)[1] == ["0", "102.25", "36.5", "104", "-512", "-12", "198", "1371"]
    rows = {row[0]: row[1:] for row in rows_of(plan.below)}
    assert rows["patch size, voxels"] == ["512 × 448", "96 × 160 × 160", "96 × 160 × 160"]  # noqa: RUF001
    assert rows["kernel sizes"][1] == "1 × 3 × 3, 3 × 3 × 3 (5 times)"  # noqa: RUF001
    data = source(plan.figures[0][1])
    assert (data["low"], data["high"], data["percentile_99_5"]) == ([65.75], [138.75], [198.0])


def test_images_in_2d_have_no_third_axis():
    fingerprint = {"spacings": [[999.0, 1.5, 2.0]] * 3, "shapes_after_crop": [[1, 48, 50]] * 3}
    plan = part(parts_of([PlansAgreed(fingerprint=fingerprint)]), "plan")
    assert "<dd>1.5 × 2</dd>" in plan.html  # noqa: RUF001
    assert "<dd>48 × 50</dd>" in plan.html  # noqa: RUF001


@pytest.mark.parametrize(
    "strange",
    [{}, {"spacings": 3, "shapes_after_crop": [[1], "x"]},
     {"foreground_intensity_properties_per_channel": {"0": {"mean": "x"}}},
     {"spacings": [[1.0], [1.0, 2.0]], "configurations": {"a": {"inherits_from": "a", "architecture": 3}}}],
)  # fmt: skip
def test_a_fingerprint_or_plan_of_an_unknown_kind_does_no_harm(strange):
    assert render_page("x", parts_of([PlansAgreed(fingerprint=strange, plans=strange)]))


def test_what_comes_from_other_machines_is_escaped_wherever_it_stands():
    sites = [HOSTILE, "hospital-b", "</script><img src=x onerror=alert(1)>"]
    events = [*a_training(6, sites, labels=[HOSTILE, "$$x$$"]), UpdateOutOfLine(site=HOSTILE, round=6, ratio=None)]
    events += [SitesAwaited(sites=[HOSTILE], present=1, needed=2), StageStarted(stage="preparing", fold=HOSTILE)]
    events += [SiteLeftOut(site=HOSTILE, round=3, reason=HOSTILE), PlansAgreed(plans={"plans_name": HOSTILE, "configurations": {HOSTILE: {HOSTILE: HOSTILE, "normalization_schemes": HOSTILE}}})]  # fmt: skip  # noqa: E501
    page = render_page(HOSTILE, parts_of(events, HOSTILE), HOSTILE)
    outside = page[: page.rindex("<script>'use strict'")]
    assert "<script>alert" not in outside
    assert "<img" not in outside
    assert outside.count("<script") == outside.count('<script type="application/json"') == outside.count("</script>")
    assert "&lt;script&gt;alert" in outside


def test_data_are_json_that_a_browser_reads():
    page = render_page("x", parts_of(a_training(3, [HOSTILE, "B"])))
    for text in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', page, re.DOTALL):
        assert json.loads(text)["doc"]["roots"][0]["name"] == "Figure"


def test_the_page_names_no_other_host_outside_of_its_library():
    page = render_page("x", parts_of(a_run()))
    page = page[: page.rindex("<script>'use strict'")]
    assert "http:" not in page
    assert "https:" not in page
    assert "src=" not in page


def test_a_page_of_1000_rounds_20_sites_and_3_labels_is_smaller_than_3_mb(tmp_path):
    sites = [f"hospital-{number:02d}" for number in range(20)]
    write_page(tmp_path / "report.html", "large", parts_of(a_run(1000, sites)))
    assert (tmp_path / "report.html").stat().st_size < 3_000_000


def test_a_page_of_much_more_than_that_draws_fewer_rounds_and_says_so_but_always_the_last():
    sites = [f"hospital-{number:02d}" for number in range(20)]
    events = [event for fold in "012" for event in a_training(700, sites, [f"label {n}" for n in range(15)], fold)]
    parts = parts_of(events)
    assert len(render_page("larger", parts)) < 3_500_000
    training = part(parts, "training-fold-1")
    rounds = list(source(training.figures[0][1])["round"])
    step = rounds[-1] - rounds[-2]
    assert (rounds[-1], len(rounds)) == (700, -(-700 // step))
    assert f"one in {step} rounds drawn" in training.figures[0][0]
    assert "the first 12 of 15 labels" in training.figures[0][0]


def test_parts_of_several_runs_can_stand_on_one_page():
    ids = [p.id for name in ("FFE", "AsymFedAvg") for p in parts_of(a_training(2, SITES), name)]
    assert ids[0] == "ffe-overview"
    assert len(set(ids)) == len(ids)


def test_cells_of_a_table_are_escaped_unless_they_are_markup():
    html = html_table(["a", "<b>"], [["<i>", Markup("<i>2</i>")]], caption="<c>", foot=[["sum", 2]])
    assert '<td class="text">&lt;i&gt;</td><td><i>2</i></td>' in html
    assert "&lt;b&gt;" in html
    assert "&lt;c&gt;" in html
    assert '<tfoot><tr><td class="text">sum</td><td>2</td></tr></tfoot>' in html


def test_pictures_stand_in_the_page_itself(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n...")
    html = pictures_part([("<A>", path)]).html
    assert 'src="data:image/png;base64,iVBORw0KGgouLi4="' in html
    assert "<figcaption>&lt;A&gt;</figcaption>" in html


def test_a_picture_that_is_none_is_refused(tmp_path):
    (tmp_path / "a.png").write_text("<svg>")
    with pytest.raises(FednnUNetError, match=r"a\.png is not a PNG file: choose another one\."):
        pictures_part([("A", tmp_path / "a.png")])
    with pytest.raises(FednnUNetError, match="cannot be read"):
        pictures_part([("B", tmp_path / "b.png")])


def test_a_part_may_be_text_alone():
    assert "<p>hello</p>" in render_page("x", [Part("a", "A", Markup("<p>hello</p>"))])
