"""The page as it is served, in a real browser.

The tests of `as_programs.py` are of this file too: one worker does a file, and so the Space is served once.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from . import tour
from .as_programs import (  # noqa: F401 - tests and their fixture
    client,
    test_fifty_requests_at_once_are_answered_and_the_next_visitor_is_served,
    test_files_outside_a_visit_are_not_served,
    test_mcp_clients_see_three_tools,
    test_private_endpoints_cannot_be_called_by_name,
    test_the_api_is_three_functions,
)
from .common import DEMO
from .tour import write_yaml, yaml_of

#: Presses Cancel as soon as a merge shows; on busy cores a press from outside may come when the merge has ended.
CANCEL_AT_ONCE = """() => {
    const timer = setInterval(() => {
        const cancel = document.querySelector("#cancel");
        if (cancel && !cancel.disabled && document.body.innerText.includes("Merging")) {
            clearInterval(timer);
            cancel.click();
        }
    }, 20);
}"""
#: Keeps back what the page asks when it is opened (has this visitor a draft?), as a busy server does.
SLOW_TO_OPEN = """
    const real = window.fetch;
    window.fetch = (...given) => {
        const asked = given[1]?.body;
        if (typeof asked !== "string" || JSON.stringify(JSON.parse(asked).data) !== '[""]') return real(...given);
        return new Promise(done => { window.answer = () => real(...given).then(got => (done(got), got)); });
    };
"""
PICTURES = Path(os.environ["SPACE_PICTURES"]) if "SPACE_PICTURES" in os.environ else None  # where they are left


@pytest.fixture(scope="module")
def chromium():
    with tour.browser() as started:
        yield started


@pytest.fixture(scope="module")
def toured(chromium, site):
    """A visitor who has taken the tour, and how long each step took."""
    with tour.visitor(chromium, site.url) as page:
        yield page, tour.tour(page, PICTURES)


@pytest.fixture
def merged(toured):
    """A visitor who has merged the demo."""
    return toured[0]


def test_the_tour(toured):
    _, took = toured
    assert took["tour"] < 120 * (os.getloadavg()[0] + 1)  # seconds on a machine that does nothing else


def test_yaml_and_form_follow_each_other(chromium, site):
    with tour.visitor(chromium, site.url) as page:
        page.get_by_label("Expert 2: weight").fill("0.5")
        page.get_by_text("weight: 0.5").wait_for()
        write_yaml(page, yaml_of(page).replace("weight: 0.5", "weight: 0.75") + "\nparameters:\n  kappa: 2.5\n")
        page.wait_for_function("document.querySelector('#parameter-kappa input')?.value == '2.5'")
        assert page.get_by_label("Expert 2: weight").input_value() == "0.75"
        page.get_by_label("Expert 3: model").fill("me/pasted")  # without keys, as the mouse pastes
        page.get_by_label("Expert 3: weight").focus()
        page.get_by_text("harmlessness: me/pasted").wait_for()
        page.get_by_label("Begin with an example").click()
        page.get_by_role("option", name="weighted ties").click()
        page.wait_for_function("document.querySelector('#parameter-density input')?.value == '0.4'")
        assert page.locator("#parameter-kappa").count() == 0


def test_a_broken_recipe_points_at_its_line_and_the_merge_is_refused(chromium, site):
    with tour.visitor(chromium, site.url) as page:
        write_yaml(page, yaml_of(page).replace("shipped:honest", "../../etc/passwd") + "\nparameters:\n  kappa: -1\n")
        page.get_by_text("kappa=-1").wait_for()
        line = 1 + [each.strip() for each in yaml_of(page).split("\n")].index("kappa: -1")
        assert f"Line {line}:" in page.locator(".problems").first.inner_text()
        page.locator("#merge").click()
        page.locator("#status .problems").wait_for()
        write_yaml(page, yaml_of(page).replace("kappa: -1", "kappa: 1"))
        page.get_by_text("The recipe can be read.").wait_for()
        page.locator("#merge").click()
        page.locator("#status").get_by_text("no model that can be read here").wait_for()
        assert "Traceback" not in page.content()


def test_cancel_stops_the_merge_and_leaves_nothing(chromium, site):
    with tour.visitor(chromium, site.url) as page:
        write_yaml(page, yaml_of(page).replace("r_tsvm", "della").replace("out: adapter", "out: weights"))
        page.locator("#parameter-density").wait_for()
        page.evaluate(CANCEL_AT_ONCE)
        page.locator("#merge").click()
        page.get_by_text("Cancelled. Nothing of it is left.").wait_for()
        left = [path for visit in site.visits.iterdir() for path in visit.glob("merge-*")]
        page.wait_for_function("!document.querySelector('#merge').disabled")
        write_yaml(page, DEMO)  # the quicker one
        page.locator("#parameter-lambda").wait_for()
        tour.merge(page)
        now = [path for visit in site.visits.iterdir() for path in visit.glob("merge-*")]
        assert len(now) == len(left) + 1


def test_an_evaluation_can_be_cancelled(merged):
    merged.locator("#evaluate").click()
    merged.wait_for_function("!document.querySelector('#stop-evaluation').disabled")
    assert merged.locator("#evaluate").is_disabled()
    merged.locator("#stop-evaluation").click()
    merged.locator("#evaluated").get_by_text("Cancelled. Nothing of it is left.").wait_for()
    merged.wait_for_function("!document.querySelector('#evaluate').disabled")
    assert "Helpful, honest, harmless?" not in merged.locator("#look").inner_text()


def test_what_a_quick_visitor_types_stays_when_the_page_has_opened(chromium, site):
    with tour.visitor(chromium, site.url, script=SLOW_TO_OPEN) as page:
        page.locator("#parameter-lambda input").fill("0.25")
        page.get_by_text("lambda: 0.25").wait_for()
        page.get_by_label("Expert 2: weight").fill("0.5")
        page.get_by_text("weight: 0.5").wait_for()
        page.wait_for_function("window.answer")
        assert page.evaluate("window.answer().then(got => got.status)") == 200
        page.wait_for_timeout(1000)
        assert "lambda: 0.25" in yaml_of(page)
        assert page.locator("#parameter-lambda input").input_value() == "0.25"
        assert yaml_of(page).count("weight:") == 1  # what was left empty is not 0


def test_a_reload_keeps_the_draft_and_a_link_brings_a_recipe(chromium, site):
    with tour.visitor(chromium, site.url) as page:
        page.locator("#parameter-lambda input").fill("0.25")
        page.get_by_text("lambda: 0.25").wait_for()
        page.wait_for_timeout(500)
        page.reload()
        page.get_by_text("lambda: 0.25").wait_for()
        page.get_by_role("button", name="Link to this recipe").click()
        link = f"{site.url}/{page.locator('#link a').get_attribute('href')}"
    assert "?recipe=" in link
    with tour.visitor(chromium, link) as page:
        page.get_by_text("lambda: 0.25").wait_for()


def test_visitors_never_see_each_others_work_and_it_goes_with_them(chromium, site, merged):
    folders = {path for path in site.visits.iterdir() if list(path.glob("merge-*"))}
    assert folders
    with tour.visitor(chromium, site.url) as other:
        other.locator("#ask").click()
        other.get_by_text("Nothing is merged yet. Press Merge above, then ask.").wait_for()
        assert other.locator("#look figure").count() == 0
        assert not [folder for folder in folders if folder.name in other.content()]
        tour.merge(other)
        (own,) = {path for path in site.visits.iterdir() if list(path.glob("merge-*"))} - folders
        other.wait_for_function("name => document.documentElement.outerHTML.includes(name)", arg=own.name)
        assert own.name not in merged.content()
        assert (own.stat().st_mode & 0o777) == 0o700
    for _ in range(300):  # gradio sees within seconds that a page was closed
        if not own.exists():
            break
        time.sleep(0.1)
    assert not own.exists()
    assert merged.locator("#look figure").count() == 6


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_it_is_accessible_and_fits(merged, width, dark):
    from axe_playwright_python.sync_playwright import Axe

    page = merged
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme="dark" if dark else "light")
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", dark)
    page.wait_for_timeout(400)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    for box in page.locator("#look figure svg").all():
        place = box.bounding_box()
        assert place["width"] > 200
        assert place["x"] >= 0
        assert place["x"] + place["width"] <= width
    if PICTURES is not None:
        page.screenshot(path=str(PICTURES / f"{width}-{'dark' if dark else 'light'}.png"), full_page=True)
    found = Axe().run(page).response["violations"]
    serious = [
        (each["id"], node["target"], node["failureSummary"][:300])
        for each in found
        if each["impact"] in ("serious", "critical")
        for node in each["nodes"]
    ]
    assert serious == []


def test_the_keyboard_is_enough(chromium, site):
    with tour.visitor(chromium, site.url) as page:
        page.get_by_role("textbox", name="Base model").focus()
        for _ in range(120):
            if page.evaluate("document.activeElement.classList.contains('cm-content')"):
                page.keyboard.press("Escape")  # in an editor Tab indents; the page says how to leave it
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "merge":
                break
        assert page.evaluate("document.activeElement.id") == "merge"
        style = "getComputedStyle(document.activeElement)"
        assert page.evaluate(f"{style}.outlineStyle + {style}.boxShadow") != "nonenone"
        page.keyboard.press("Enter")
        page.locator("#status .fine").wait_for()
        page.locator("#prompt textarea").focus()
        page.keyboard.press("Tab")
        page.locator("#ask").focus()
        page.keyboard.press("Enter")
        page.locator("#answers .answer").first.wait_for()


def test_no_hub_is_said_and_search_explains(chromium, site):
    with tour.visitor(chromium, site.url) as page:
        page.get_by_text("No Hub.").wait_for()
        page.get_by_role("button", name="Search the Hub").click()
        page.get_by_role("button", name="Search", exact=True).click()
        page.get_by_text("there is nothing to search").wait_for()
