"""Speculation on the page, step by step: what they show is what was recorded, and they answer to keys and buttons."""

import copy
import json
import re

import pytest
from anatomy.site import stepper
from support.browser import chromium, needs_chromium

SPECIFICATION = re.compile(r'<script type="application/json" class="anatomy-stepper-spec">(.*?)</script>', re.S)
WORDS = [" the", "<b>", "\n", " a", "x", " Moses"]


def node(number, token, p, q, at, fate):
    accept = min(1.0, p / q)
    distributions = {"target": [[0, 0.5], [token, p]], "draft": [[token, q], [3, 0.1]]}
    place = {"node": number, "parent": number - 1, "depth": number, "token": token, "fate": fate}
    return place | {"p": p, "q": q, "accept": accept, "at": at} | distributions


def last(token, kind):
    return {"token": token, "kind": kind, "probability": 0.75, "from": [[token, 0.75]], "target": [[0, 0.5]]}


RECORDED = [
    {
        "known": 3,
        "newest": 5,
        "drafted": [
            node(1, 0, 0.5, 0.4, 0.9, "accepted"),
            node(2, 1, 0.1, 0.5, 0.3, "rejected"),
            node(3, 2, 0.1, 0.1, 0.2, "not reached"),
        ],
        "last": last(4, "resampled"),
        "tokens": [0, 4],
    },
    {
        "known": 5,
        "newest": 4,
        "drafted": [node(1, 5, 0.9, 0.3, 0.99, "accepted")],
        "last": last(2, "bonus"),
        "tokens": [5, 2],
    },
]


@pytest.fixture(scope="module")
def made():
    return stepper(RECORDED, WORDS.__getitem__, "And <i>", caption="What to see & try.")


def test_each_decision_is_a_step(made):
    steps = made.specification["decisions"]
    assert [step["what"] for step in steps] == [
        "proposed",
        "accepted",
        "rejected",
        "resampled",
        "proposed",
        "accepted",
        "bonus",
    ]
    assert [step["step"] for step in steps] == [1] * 4 + [2] * 3
    assert {step["before"] for step in steps[4:]} == {" thex"}
    assert steps[2]["draft"] == [[" the", "accepted"], ["<b>", "rejected"], ["\n", "dropped"]]
    assert steps[3]["draft"] == [[" the", "accepted"], ["x", "resampled"]]
    assert repr(made) == "Stepper through speculation (7 decisions)"


def test_a_step_says_why(made):
    _, kept, refused, drawn, _, _, bonus = (step["say"] for step in made.specification["decisions"])
    assert "p = 0.500" in kept and "q = 0.400" in kept and "min(1, p/q) = 1.000" in kept and kept.endswith("accepted.")
    assert "0.200" in refused and "0.300, not below that: rejected" in refused
    assert "above q" in drawn and "2 tokens for one pass" in drawn
    assert "one of its own" in bonus and "↵" in bonus


def test_both_distributions_of_a_place_are_shown_the_likeliest_first(made):
    distributions = made.specification["decisions"][2]["distributions"]
    assert distributions == [["␣the", 0.5, None, False], ["<b>", 0.1, 0.5, True], ["␣a", None, 0.1, False]]
    assert made.specification["decisions"][0]["distributions"] == made.specification["decisions"][1]["distributions"]


def test_what_is_carried_cannot_end_the_script_and_is_json(made):
    (data,) = SPECIFICATION.findall(made.html)
    assert "<" not in data and json.loads(data) == made.specification


def test_without_a_script_there_is_a_table(made):
    table = re.search(r'class="without-script">(.*?)</div>', made.html, re.S).group(1)
    assert table.count("<tr>") == 1 + 4 + 2 and "&lt;b&gt;" in table and "not reached" in table and "<i>" not in table


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.clear(), r"stepper.recorded is \[\]; allowed: at least one step"),
        (lambda r: r[1].update(drafted=[]), r"stepper.recorded is \[\]; allowed: chains"),
        (lambda r: r[0]["drafted"][1].update(parent=0), r"stepper.recorded is \[0, 0, 2\]; allowed: chains"),
        (lambda r: r[0]["drafted"][0].update(fate="lost"), "stepper.fate is 'lost'; allowed: accepted, rejected"),
    ],
)
def test_what_is_no_recording_is_refused(change, message):
    recorded = copy.deepcopy(RECORDED)
    change(recorded)
    with pytest.raises(ValueError, match=message):
        stepper(recorded, WORDS.__getitem__, "And")


@needs_chromium
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_reader_steps_through_it(made, tmp_path, width, theme):
    file = tmp_path / "stepper.html"
    head = '<!doctype html><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
    file.write_text(f'<html data-theme="{theme}">{head}{made.html}</html>', encoding="utf-8")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": width, "height": 900})
        problems, requests = [], []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(file.as_uri())
        assert not page.locator(".without-script").is_visible()
        back, forth = (page.get_by_role("button", name=name) for name in ("Back", "Next"))
        assert back.is_disabled() and page.locator(".token.proposed").count() == 3

        walk = page.get_by_role("slider", name="Decision")
        walk.focus()
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowRight")
        assert walk.get_attribute("aria-valuetext") == "3 of 7: step 1, rejected"
        assert page.locator(".token.rejected").inner_text() == "<b>" and page.locator(".token.dropped").count() == 1
        assert page.locator(".distributions tr.chosen th").inner_text() == "<b>"
        bars = [page.locator(f".distributions tr.chosen .{kind} .bar").bounding_box()["width"] for kind in "pq"]
        assert bars[1] == pytest.approx(5 * bars[0], rel=0.05)

        forth.click()
        assert page.locator(".token.resampled").inner_text() == "x"
        back.click()
        assert page.locator(".token.rejected").count() == 1
        page.keyboard.press("Tab")
        walk.focus()
        page.keyboard.press("End")
        assert forth.is_disabled() and page.locator(".known").inner_text().startswith("And <i> thex")
        play = page.get_by_role("button", name="Play")
        play.click()
        assert (
            walk.input_value() == "0"
            and page.get_by_role("button", name="Pause").get_attribute("aria-pressed") == "true"
        )
        page.wait_for_function("document.querySelector('[data-walk]').value === '1'")
        page.get_by_role("button", name="Pause").click()

        assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
        for control in page.locator(".anatomy-stepper :is(input, button)").all():
            assert control.bounding_box()["height"] >= 44, "too small for a finger"
        assert problems == [] and requests == [file.as_uri()]
