"""The page in a real browser, without a display: its charts are read back, its parts clicked through."""

import re

import numpy as np
import pytest

from fednnunet.events.events import RoundCompleted, SiteLeftOut
from fednnunet.events.run_state import RunState
from fednnunet.report.dashboard import Dashboard
from fednnunet.report.page import parts_of, render_page, write_page
from fednnunet.report.standing import condition
from tests.browsing import COLUMNS, needs_browser, open_part, opened, started_browser, wait_until
from tests.report.page.made_up import LABELS, SITES, a_round, a_run, a_training

pytestmark = needs_browser
HOSTILE = '<script>alert("x")</script>'

LINES = """async key => {
  const figure = document.querySelector(`figure[data-figure="${key}"]`);
  const doc = await fednnunet.drawn.get(figure);
  return doc.roots()[0].renderers.map(line => [line.name, line.visible, line.glyph.y.field]);
}"""
COLOURS = """async key => {
  const figure = document.querySelector(`figure[data-figure="${key}"]`);
  const plot = (await fednnunet.drawn.get(figure)).roots()[0];
  return {text: plot.below[0].major_label_text_color, axis: plot.below[0].axis_line_color,
          grid: plot.center.find(model => model.type == "Grid" && model.axis === plot.left[0]).grid_line_color,
          page: getComputedStyle(document.body).backgroundColor};
}"""
PAINTED = f"""async page => {{
  const now = await ({COLOURS})("training-0");
  const soft = getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
  return now.text == soft && now.page != page && now;
}}"""
"""Waits until the chart has the colours of the page, which are other ones than `page`, and returns them."""


@pytest.fixture(scope="module")
def browser():
    with started_browser() as browser:
        yield browser


@pytest.fixture(scope="module")
def run():
    return a_run(12)


@pytest.fixture(scope="module")
def url(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(path, "A run", parts_of(run), condition(RunState.of(run)))
    return path.as_uri()


def test_the_charts_show_the_events_numbers(browser, url, run):
    rounds = [event for event in run if isinstance(event, RoundCompleted)]
    with opened(browser, url) as page:
        open_part(page, "training")
        dice, train_loss = page.evaluate(COLUMNS, "training-0"), page.evaluate(COLUMNS, "training-1")
        assert dice["round"] == list(range(1, 13))
        for index, site in enumerate(SITES):
            reports = [event.sites.get(site) for event in rounds]
            for column, values in (
                (dice[f"0:s{index}"], [r and r.mean_dice for r in reports]),
                (dice[f"2:s{index}"], [r and r.dice[LABELS[1]] for r in reports]),
                (train_loss[f"0:s{index}"], [r and r.train_loss for r in reports]),
            ):
                np.testing.assert_allclose(np.array(column, float), np.array(values, float), rtol=1e-6)
        open_part(page, "time")
        seconds = page.evaluate(COLUMNS, "time-0")
        np.testing.assert_allclose(seconds["other to"], [event.seconds for event in rounds], rtol=1e-6)
        from_sites = page.evaluate(COLUMNS, "time-1")
        np.testing.assert_allclose(from_sites["0:s1"], [e.traffic[SITES[1]].from_site / 1e6 for e in rounds], rtol=1e-6)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1280])
def test_all_parts_can_be_opened_and_none_is_wider_than_the_screen(browser, url, width, scheme):
    with opened(browser, url, width, scheme=scheme) as page:
        names = [link.get_attribute("href")[1:] for link in page.query_selector_all("nav a")]
        assert len(names) == 10
        for name in names:
            open_part(page, name)
            assert page.locator("main > section:visible").count() == 1
            assert page.locator(f"#part-{name} h2").is_visible()
            drawn = page.locator(f"#part-{name} figure .plot")
            assert all(drawn.nth(index).locator("canvas").count() for index in range(drawn.count()))
            assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_the_colours_follow_the_scheme_also_when_it_changes(browser, url):
    with opened(browser, url + "#training") as page:
        light = wait_until(page, PAINTED, "none yet")
        page.emulate_media(color_scheme="dark")
        dark = wait_until(page, PAINTED, light["page"])
    assert all(light[name] != dark[name] for name in light)
    with opened(browser, url + "#training", scheme="dark") as page:
        assert wait_until(page, PAINTED, "none yet") == dark


def test_a_click_in_the_legend_hides_a_line_and_the_menu_chooses_a_label(browser, url):
    with opened(browser, url + "#training") as page:
        page.click("#part-training [data-line=s1]")
        wait_until(page, f"async () => !(await ({LINES})('training-1'))[1][1]")
        assert [line[1] for line in page.evaluate(LINES, "training-0")] == [True, False, True, True]
        assert page.get_attribute("#part-training [data-line=s1]", "aria-pressed") == "false"
        page.select_option("#part-training select", label=LABELS[2])
        wait_until(page, f"async () => (await ({LINES})('training-0'))[0][2] == '3:s0'")
        page.click("#part-training [data-line=s1]")
        wait_until(page, f"async () => (await ({LINES})('training-1'))[1][1]")


def test_hovering_shows_values_and_why_a_site_was_left_out_as_text(browser, tmp_path):
    events = [
        a_round(1, 2, [HOSTILE, "B"]),
        SiteLeftOut(site=HOSTILE, round=2, reason=HOSTILE),
        a_round(2, 2, [HOSTILE, "B"], left_out={HOSTILE: HOSTILE}),
    ]
    write_page(tmp_path / "report.html", HOSTILE, parts_of(events), HOSTILE)
    with opened(browser, (tmp_path / "report.html").as_uri() + "#participation") as page:
        box = page.locator("#part-participation .plot canvas").first.bounding_box()
        page.mouse.move(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.4)
        readout = page.locator("#part-participation .readout")
        page.wait_for_function(
            "() => document.querySelector('#part-participation .readout').textContent.includes('round 2')"
        )
        assert readout.text_content() == f"round 2 · {HOSTILE} · left out: {HOSTILE}"
        open_part(page, "training")
        box = page.locator("#part-training .plot canvas").first.bounding_box()
        for step in range(100, 0, -2):  # from below, until a line is near
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] * step / 100)
            if page.locator(".bk-Tooltip").count():
                break
        tooltip = page.locator(".bk-Tooltip").first.evaluate("element => element.shadowRoot.textContent")
        assert re.search(r"site: .*round: [12].*Dice: 0\.\d{4}", tooltip, re.DOTALL), tooltip
        assert page.title() == f"{HOSTILE} · {HOSTILE}"


def test_the_page_of_1000_rounds_and_20_sites_answers_clicks(browser, tmp_path):
    sites = [f"hospital-{number:02d}" for number in range(20)]
    write_page(tmp_path / "report.html", "large", parts_of(a_run(1000, sites)))
    with opened(browser, (tmp_path / "report.html").as_uri()) as page:
        for name in ("training", "time", "participation"):
            open_part(page, name)
        open_part(page, "training")
        page.click("#part-training [data-line=s7]")
        wait_until(page, f"async () => !(await ({LINES})('training-0')).find(l => l[0] == 'hospital-07')[1]")
        assert len(page.evaluate(COLUMNS, "training-0")["round"]) == 1000


def test_a_new_round_shows_without_reloading_and_nothing_that_was_opened_is_lost(browser):
    def page_after(rounds):
        return render_page("Live", parts_of(a_training(rounds, SITES, of_rounds=9)), f"round {rounds}").encode()

    with Dashboard(0) as dashboard:
        dashboard.show(page_after(4))
        with opened(browser, dashboard.url, height=500) as page:
            page.evaluate("window.not_reloaded = true")
            open_part(page, "training")
            page.select_option("#part-training select", label=LABELS[0])
            page.click("#part-training [data-line=s2]")
            page.evaluate("window.clicked = document.activeElement")
            page.evaluate("window.chart = document.querySelector('#part-training .plot').firstElementChild")
            page.evaluate("scrollTo(0, 150)")
            assert len(page.evaluate(COLUMNS, "training-0")["round"]) == 4
            dashboard.show(page_after(5))
            wait_until(page, f"async () => (await ({COLUMNS})('training-0')).round.length == 5")
            page.wait_for_function("() => document.querySelector('#subtitle').textContent == 'round 5'")
            assert page.evaluate("window.not_reloaded && scrollY") == 150
            assert page.locator("#part-training").is_visible()
            assert page.evaluate("clicked.matches('[data-line=s2]') && document.activeElement === clicked")
            assert page.evaluate("chart === document.querySelector('#part-training .plot').firstElementChild")
            lines = page.evaluate(LINES, "training-0")
            assert [line[1] for line in lines] == [True, True, False, True]
            assert lines[0][2] == "1:s0"
            assert page.input_value("#part-training select") == "1"
            open_part(page, "overview")
            assert page.locator("#part-overview dd", has_text="5 of 9").is_visible()


def test_parts_that_come_later_appear_beside_those_that_are_there(browser):
    with Dashboard(0) as dashboard:
        dashboard.show(render_page("Live", parts_of([])).encode())
        with opened(browser, dashboard.url) as page:
            assert page.locator("nav a").count() == 1
            dashboard.show(render_page("Live", parts_of(a_run(6))).encode())
            page.wait_for_function("() => document.querySelectorAll('nav a').length == 10")
            assert page.locator("#part-overview").is_visible()
            open_part(page, "training")
            wait_until(page, f"async () => (await ({COLUMNS})('training-0')).round.length == 6")
            dashboard.__exit__()
            page.wait_for_function("() => document.querySelector('#live').textContent.includes('has ended')")
