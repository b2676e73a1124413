import numpy as np
import pytest
from bokeh.models import ColumnDataSource

from fednnunet.comparison.page import comparison_part, write_report
from fednnunet.events.event_files import EventFile
from fednnunet.events.events import RoundCompleted
from fednnunet.protocol.messages import RoundReport
from tests.browsing import COLUMNS, needs_browser, open_part, opened, started_browser
from tests.comparison.test_tables import A, results
from tests.report.page.made_up import SITES, a_training


def test_the_part_has_the_table_and_a_picture_of_the_differences():
    part = comparison_part(results(failures={"asym": "<b>nothing</b> is shared"}))
    assert "0.800*" in part.html
    assert "&lt;b&gt;nothing" in part.below
    (_, dice), (caption, _), (_, values), _ = part.figures
    assert "further left is better" in caption
    source = dice.select_one({"name": "difference dice data", "type": ColumnDataSource})
    rows = list(zip(source.data["method"], source.data["test_cases"], strict=True))
    assert len(rows) == 3 * 5  # methods beside local; two sites, an external dataset, all sites, the cases of others
    first = rows.index(("FFE", "A"))
    assert source.data["mean"][first] == pytest.approx(0.2)
    assert source.data["high"][first] == pytest.approx(0.2 + 12.706204736 * 0.2)
    assert np.all(source.data["low"] <= source.data["mean"])
    source = values.select_one({"name": "value dice data", "type": ColumnDataSource})
    rows = list(zip(source.data["method"], source.data["test_cases"], strict=True))
    assert len(rows) == 4 * 5
    assert source.data["mean"][rows.index(("Local", "A"))] == pytest.approx(0.6)
    assert source.data["low"][rows.index(("Local", "A"))] == pytest.approx(0.6 - 12.706204736 * 0.1)


def test_the_page_also_shows_the_federated_trainings(tmp_path):
    report = RoundReport(train_loss=0.1, val_loss=0.2, mean_dice=0.5, dice={"organ": 0.5})
    EventFile(tmp_path / "ffe.jsonl").emit(RoundCompleted(round=1, rounds=9, seconds=1.0, sites={A: report}))
    (tmp_path / "asym.jsonl").write_text("no event\n")
    events = {name: tmp_path / f"{name}.jsonl" for name in ("asym", "ffe")}
    write_report(results(), tmp_path / "report.html", events)
    text = (tmp_path / "report.html").read_text()
    assert "FFE: Training" in text
    assert "Comparison" in text
    assert "AsymFedAvg: Training" not in text


@needs_browser
@pytest.mark.parametrize(("width", "scheme"), [(375, "dark"), (1280, "light")])
def test_a_browser_shows_the_differences_and_all_parts_of_the_page(tmp_path, width, scheme):
    file = EventFile(tmp_path / "ffe.jsonl")
    for event in a_training(5, SITES):
        file.emit(event)
    write_report(results(), tmp_path / "report.html", {"ffe": tmp_path / "ffe.jsonl"})
    with (
        started_browser() as browser,
        opened(browser, (tmp_path / "report.html").as_uri(), width, scheme=scheme) as page,
    ):
        names = page.eval_on_selector_all("nav a", "links => links.map(link => link.hash.slice(1))")
        assert len(names) > 3
        for name in names:
            open_part(page, name)
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        open_part(page, names[0])
        shown = page.evaluate(COLUMNS, f"{names[0]}-0")
    source = {"name": "difference dice data", "type": ColumnDataSource}
    expected = comparison_part(results()).figures[0][1].select_one(source).data
    np.testing.assert_allclose(shown["mean"], expected["mean"], rtol=1e-6)
