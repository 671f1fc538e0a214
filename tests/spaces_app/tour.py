"""A person's way through the page, for the tests and for `make space-check`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run",
)  # fmt: skip
PATIENCE = 90_000  # ms; for machines that do other things too


@contextmanager
def browser() -> Iterator[Any]:
    """Debian's chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=list(ARGUMENTS))
        try:
            yield started
        finally:
            started.close()


@contextmanager
def visitor(started: Any, url: str, *, width: int = 1440, dark: bool = False, script: str = "") -> Iterator[Any]:
    """A page of its own, with a script that runs before the page's; what the browser complains about is an error."""
    context = started.new_context(
        viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", accept_downloads=True
    )
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.add_init_script(script)
    page.complaints = []
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    try:
        page.goto(url)
        page.locator("#parameter-lambda").wait_for()  # the last to come: made from the registry
        yield page
        assert page.complaints == []
    finally:
        context.close()


def merge(page: Any) -> float:
    """Press Merge and wait for its end; the seconds that took."""
    start = time.perf_counter()
    page.locator("#merge").click()
    page.locator("#status .fine, #status .problems").wait_for()
    assert page.locator("#status .fine").count(), page.locator("#status").inner_text()
    page.locator("#look figure").first.wait_for()
    return time.perf_counter() - start


def ask(page: Any, tokens: int = 8) -> str:
    """Ask all models, and wait for all answers."""
    page.get_by_label("number input for Length of an answer, in tokens").fill(str(tokens))
    page.get_by_role("button", name="A question for honesty").click()
    page.locator("#ask").click()
    page.get_by_text("Answers are complete.").wait_for()
    return page.locator("#answers").inner_text()


#: Waits in the page itself for what a click brings: a wait from outside polls, and each poll takes a while.
SEEN = """([press, wanted]) => new Promise((done, fail) => {
    const start = performance.now(), seen = new Function("return " + wanted);
    const look = () => {
        const seconds = (performance.now() - start) / 1000;
        if (seen()) done(seconds); else if (seconds > 30) fail(wanted); else requestAnimationFrame(look);
    };
    document.querySelector(press).click();
    look();
})"""
RECIPE = "[...document.querySelectorAll('#yaml .cm-line')].map(each => each.innerText).join()"


def clicks(page: Any) -> dict[str, float]:
    """Seconds from clicks until the page shows their answer; the recipe then says what it did before."""
    link = page.evaluate(SEEN, ["#share", "document.querySelector('#link a')"])
    models = page.evaluate(SEEN, ["#kind input[value=models]", f"{RECIPE}.includes('model: shipped')"])
    adapters = page.evaluate(SEEN, ["#kind input[value=adapters]", f"{RECIPE}.includes('adapters:')"])
    return {"click: link": link, "click: form to recipe": max(models, adapters)}


def tour(page: Any, pictures: Path | None = None, name: str = "tour") -> dict[str, float]:
    """Check, merge, look, ask, change, merge again, compare, sweep, download; seconds of each."""
    took: dict[str, float] = {}

    def timed(what: str, since: float) -> None:
        took[what] = time.perf_counter() - since

    start = time.perf_counter()
    page.get_by_role("button", name="Check this recipe").click()
    page.get_by_text("This merge can be carried out.").wait_for()
    timed("preflight", start)
    took["merge"] = merge(page)
    assert page.locator("#look figure svg").count() == 6
    since = time.perf_counter()
    said = ask(page)
    timed("chat", since)
    assert all(who in said for who in ("base", "helpfulness", "honesty", "harmlessness", "merged"))
    page.locator("#parameter-lambda input").fill("0.5")
    page.get_by_text("lambda: 0.5").wait_for()
    took["second merge"] = merge_again(page, 2)
    assert "Merge 1" in page.locator("#compare").inner_text()
    assert "R-TSVM" in page.locator("#card").inner_text()
    since = time.perf_counter()
    page.get_by_label("Values, at most 5").fill("0.5, 1")
    page.locator("#sweep").click()
    page.locator("#swept figure").wait_for()
    timed("sweep", since)
    with page.expect_download() as download:
        page.locator("a[href*='recipe.yaml']").first.click()
    assert "lambda: 0.5" in Path(download.value.path()).read_text()
    timed("tour", start)
    if pictures is not None:
        page.screenshot(path=str(pictures / f"{name}.png"), full_page=True)
    return took


def merge_again(page: Any, number: int) -> float:
    """Merge once more; the page then shows that merge."""
    start = time.perf_counter()
    page.locator("#merge").click()
    page.get_by_text(f"Merge {number}: r_tsvm is done").wait_for()
    return time.perf_counter() - start


def yaml_of(page: Any) -> str:
    """The recipe in the editor."""
    return "\n".join(page.locator("#yaml .cm-line").all_inner_texts())


def write_yaml(page: Any, text: str) -> None:
    """Put a recipe into the editor, as a person would."""
    page.locator("#yaml .cm-content").click()
    page.keyboard.press("Control+a")
    page.keyboard.insert_text(text)
