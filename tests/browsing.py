"""A real browser, without a display."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here to open the page with")

COLUMNS = """async key => {
  const figure = document.querySelector(`figure[data-figure="${key}"]`);
  const doc = await fednnunet.drawn.get(figure);
  const data = Object.assign({}, ...doc.roots()[0].renderers.map(renderer => renderer.data_source.data).reverse());
  return Object.fromEntries(Object.entries(data).map(([name, values]) =>
    [name, Array.from(values, value => Number.isNaN(value) ? null : value)]));
}"""


@contextmanager
def started_browser() -> Iterator[Any]:
    """Give the browser."""
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@contextmanager
def opened(browser, url, width=1280, height=900, scheme="light"):
    """Give a page that has been opened; afterwards, nothing has gone wrong in it, or asked another host."""
    context = browser.new_context(viewport={"width": width, "height": height}, color_scheme=scheme)
    page = context.new_page()
    page.set_default_timeout(120_000)
    problems = []
    page.on("console", lambda message: message.type in ("error", "warning") and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append("a dialog"))
    own = url if url.startswith("http:") else "file:"
    page.on("request", lambda ask: ask.url.startswith((own, "data:", "blob:")) or problems.append(ask.url))
    page.goto(url)
    page.wait_for_selector("html[data-ready=yes]")
    yield page
    assert problems == []
    context.close()


def open_part(page, name):
    page.click(f'nav a[href="#{name}"]')
    page.evaluate("fednnunet.show()")


def wait_until(page, predicate, arg=None):
    """Wait until an asynchronous predicate is true, and return what it says.

    Playwright's ``wait_for_function`` takes the promise itself for true.
    """
    return page.evaluate(
        f"""async arg => {{
  for (const until = performance.now() + 120000; ; await new Promise(requestAnimationFrame)) {{
    const said = await ({predicate})(arg);
    if (said) return said;
    if (performance.now() > until) throw new Error("it never came true");
  }}
}}""",
        arg,
    )
