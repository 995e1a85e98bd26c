"""Frontiers on the page: what they carry is what JAX computed, and they answer to keys and fingers."""

import json
import re

import numpy as np
import pytest
from anatomy.site import Choice, Output, Slider, frontier
from support.browser import chromium, needs_chromium, overlapping_labels
from support.nodejs import needs_node, run_javascript

SPECIFICATION = re.compile(r'<script type="application/json" class="anatomy-frontier-spec">(.*?)</script>', re.S)
SECONDS = np.array([0.04, 0.01, 0.02])  # in any order
POINTS = {
    (0.0,): {"Best": {"seconds": SECONDS, "chips": 8 / SECONDS}, "Told": {"seconds": [0.05], "chips": [400.0]}},
    (1.0,): {"Best": {"seconds": SECONDS / 2, "chips": 9 / SECONDS}, "Told": {"seconds": [], "chips": []}},
}


def plan(seconds, chips, price):
    return {"ms": 1e3 * seconds, "cost": seconds * chips**1.5 * price, "chips": chips}


def made(**changes):
    options = {
        "function": plan,
        "points": POINTS,
        "choices": [Choice("chip", "Chip <b>", start=0.0, options={"old": 0.0, "new": 1.0})],
        "sliders": [Slider("price", "Price", start=2.0, low=1.0, high=4.0, step=0.5, unit="$")],
        "outputs": [Output("ms", "Latency (ms)"), Output("cost", "Cost", unit="$"), Output("chips", "Chips")],
        "x": "ms",
        "y": "cost",
        "caption": "What to see.",
    } | changes
    return frontier(options.pop("function"), options.pop("points"), **options)


@pytest.fixture(scope="module")
def shown():
    return made()


def test_points_stand_in_the_order_of_x(shown):
    sets = shown.specification["sets"]
    assert [row[0] for row in sets["0"][0]] == [0.01, 0.02, 0.04] and sets["1"][1] == []
    assert "5 points" not in repr(shown) and "7 points in 2 sets" in repr(shown)


@needs_node
def test_the_printed_function_is_the_function(shown):
    rows = [{"seconds": s, "chips": c, "price": p} for s, c, p in [(0.01, 800.0, 2.0), (0.7, 3.0, 1.5)]]
    for row, found in zip(rows, run_javascript(shown.specification["function"], rows), strict=True):
        assert found == pytest.approx(plan(**row), rel=1e-12)


def test_without_a_script_there_is_a_table(shown):
    table = re.search(r'class="without-script">(.*?)</div>', shown.html, re.S).group(1)
    assert table.count("<tr>") == 4 and "Latency (ms)" in table and "chip &lt;b&gt;: old" in table


def test_nothing_is_fetched_and_bytes_are_the_same(shown):
    assert not re.search(r"(?:src|href)=", shown.html) and "<b>" not in shown.html.replace("&lt;b&gt;", "")
    assert made().html == shown.html
    on_page = json.loads(SPECIFICATION.search(shown.html).group(1))
    assert on_page["sets"] == json.loads(json.dumps(shown.specification["sets"]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": "speed"}, "frontier.x is 'speed'; allowed: the name of an output: ms, cost, chips"),
        ({"points": {(0.0,): POINTS[(0.0,)]}}, "frontier.points is .*; allowed: with one for each combination"),
        ({"points": POINTS | {(1.0,): {"Best": POINTS[(1.0,)]["Best"]}}}, "allowed: the series"),
        ({"points": POINTS | {(1.0,): POINTS[(0.0,)] | {"Told": {"seconds": [1.0]}}}}, "allowed: the columns"),
        ({"points": {k: POINTS[(1.0,)] | {"Best": POINTS[(1.0,)]["Told"]} for k in POINTS}}, "points at the start"),
        ({"function": lambda seconds, chips, price: plan(seconds, chips, -price)}, "finite numbers above 0"),
    ],
)
def test_what_cannot_be_drawn_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_it_answers_keys_and_fingers(shown, tmp_path, width):
    file = tmp_path / "page.html"
    viewport = '<meta name="viewport" content="width=device-width">'
    file.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8">{viewport}<title>A page</title><body>{shown.html}',
        encoding="utf-8",
    )
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900}, has_touch=width < 500)
        problems, requests = [], []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())

        def read(name):
            return page.locator(f'output[data-output="{name}"]').inner_text()

        assert not page.locator(".without-script").is_visible()
        assert (read("ms"), read("chips")) == ("20.0", "400")
        walk = page.get_by_role("slider", name="Point")
        walk.focus()
        page.keyboard.press("ArrowRight")
        assert (read("ms"), read("chips")) == ("40.0", "200")
        assert walk.get_attribute("aria-valuetext") == f"3 of 3, Latency (ms) 40.0, Cost {read('cost')}"
        assert overlapping_labels(page) == []

        before = read("cost")
        page.get_by_label("Price").focus()
        page.keyboard.press("End")
        assert read("cost") != before and read("ms") == "40.0"  # all points move in cost

        mark = page.locator("svg .mark.second").first
        box = mark.bounding_box()
        place = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        (page.touchscreen.tap if width < 500 else page.mouse.move)(*place)
        assert (read("ms"), read("chips")) == ("50.0", "400")

        page.get_by_label("Chip").select_option(label="new")
        assert "none fits" in page.locator(".walk output").inner_text()
        page.get_by_role("button", name="Reset").click()
        assert (read("ms"), read("chips")) == ("20.0", "400")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        for control in page.locator(".anatomy-frontier :is(input, select, button)").all():
            assert control.bounding_box()["height"] >= 44, "too small for a finger"
        assert problems == [] and requests == [file.as_uri()]
