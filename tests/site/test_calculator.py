"""Calculators: what they print, refuse and compute; the script under node and in a browser."""

import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from anatomy.site.interactive.calculator import Choice, Curve, Output, Slider, calculator, quantity
from bs4 import BeautifulSoup
from hypothesis import given, settings
from support.browser import overlapping_labels
from support.nodejs import needs_node, run_javascript

CHROMIUM = "/usr/bin/chromium"
CHROMIUM_ARGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
RUNTIME = (files("anatomy.site") / "interactive" / "static" / "calculator.js").read_text(encoding="utf-8")


def run_runtime(expression, rows):
    """An expression of x, where the script of the calculators is loaded."""
    return run_javascript(f"(() => {{\n{RUNTIME}\nreturn (x) => {expression};\n}})()", rows)


def cache(layers, context, bytes_per_value):
    total = 2 * layers * 128 * context * bytes_per_value
    return {
        "cache": total,
        "share": total / 80e9,
        "fits": total < 80e9,
        "elasticity": jax.grad(lambda c: jnp.log(total * c / context))(context) * context,
        "unused": jnp.sort(jnp.stack([layers, context]))[0],  # no JavaScript for this; nobody asks for it
    }


def make(function=cache, **changes):
    arguments = {
        "inputs": [
            Slider("layers", "Layers", start=120, low=1, high=200, step=1),
            Slider("context", "Context", start=8192, low=1e3, high=1e6, log=True, unit="tokens"),
            Choice("bytes_per_value", "Precision <b>", start=2, options={"FP16": 2, "8": 1}),
        ],
        "outputs": [
            Output("cache", "Cache", unit="bytes"),
            Output("share", "Share of 80 GB", unit="%"),
            Output("fits", "Fits"),
            Output("elasticity", "Elasticity", digits=2),
        ],
        "caption": "Try <1,000 tokens & more.",
        "curve": Curve("context", "cache"),
    }
    return calculator(function, **(arguments | changes))


@pytest.fixture(scope="module")
def shown():
    return make()


# Numbers for a reader.


@pytest.mark.parametrize(
    ("value", "unit", "digits", "text"),
    [
        (1.83e12, "parameters", 3, "1.83 T parameters"),
        (277.4e9, "parameters", 3, "277 B parameters"),
        (277.4e9, "bytes", 3, "277 GB"),
        (2.039e12, "bytes/s", 3, "2.04 TB/s"),
        (61440.0, "bytes per token", 3, "61.4 kB per token"),
        (512.0, "B", 3, "512 B"),
        (3.12e14, "FLOP/s", 3, "312 TFLOP/s"),
        (2.15e25, "FLOP", 3, "2.15 × 10²⁵ FLOP"),
        (2.15e21, "FLOP", 3, "2.15 ZFLOP"),
        (63e6, "$", 3, "$63.0 M"),
        (-63e6, "$", 3, "−$63.0 M"),
        (0.0049, "$ per 1,000 tokens", 2, "$0.0049 per 1,000 tokens"),
        (1.0, "$/h", 3, "$1.00/h"),
        (0.3245, "%", 3, "32.5 %"),
        (25_000.0, "GPUs", 3, "25.0 k GPUs"),
        (24_960.0, "GPUs", 5, "24,960 GPUs"),
        (2048.0, "tokens", 3, "2,048 tokens"),
        (999_999_999.0, "tokens", 3, "1.00 B tokens"),
        (13e12, "tokens", 3, "13.0 T tokens"),
        (2e15, "tokens", 3, "2.00 × 10¹⁵ tokens"),
        (0.00123, "s", 3, "1.23 ms"),
        (123e-6, "s", 3, "123 µs"),
        (86_400.0, "s", 3, "86,400 s"),
        (95.0, "days", 3, "95.0 days"),
        (12.25, "", 3, "12.3"),  # a half goes up
        (0.0, "W", 3, "0 W"),
        (1.5e-7, "", 2, "1.5 × 10⁻⁷"),
        (float("nan"), "B", 3, "– B"),
        (float("-inf"), "$", 3, "−$∞"),
        (True, "", 3, "yes"),
    ],
)
def test_quantity(value, unit, digits, text):
    assert quantity(value, unit, digits) == text


def test_quantity_without_final_zeros():
    assert quantity(13e12, "tokens", trim=True) == "13 T tokens"
    assert quantity(131_072.0, "tokens", 6, trim=True) == "131,072 tokens"
    assert quantity(120.0, trim=True) == "120"


UNITS = ["", "parameters", "bytes", "B/s", "FLOP", "$", "$/h", "%", "% of peak", "s", "s per token", "kW"]
doubles = st.floats(allow_subnormal=False) | st.floats(-1e6, 1e6).map(lambda x: round(x, 3))
numbers = doubles | st.integers(-20_000, 20_000).map(lambda n: n / 8)
cases = st.fixed_dictionaries(
    {
        "value": numbers | st.booleans(),
        "unit": st.sampled_from(UNITS),
        "digits": st.integers(1, 8),
        "trim": st.booleans(),
    }
)


@needs_node
@settings(max_examples=30, deadline=None)
@given(st.lists(cases, min_size=1, max_size=200))
def test_numbers_read_the_same_in_python_and_javascript(rows):
    found = run_runtime("({text: anatomyCalculator.quantity(x.value, x.unit, x.digits, x.trim)})", rows)
    assert [row["text"] for row in found] == [quantity(**row) for row in rows]


# What the page says.


def test_start_values_stand_in_the_html(shown):
    page = BeautifulSoup(shown.html, "html.parser")
    outputs = {tag["data-output"]: tag.text for tag in page.select("output[data-output]")}
    assert outputs == {"cache": "503 MB", "share": "0.629 %", "fits": "yes", "elasticity": "1.0"}
    assert [tag.text for tag in page.select(".input output")] == ["120", "8,192 tokens"]
    assert page.select_one("option[selected]").text == "FP16"
    assert page.select_one(".caption").text == "Try <1,000 tokens & more."
    assert shown.results["cache"] == 2 * 120 * 128 * 8192 * 2


def test_every_input_has_a_label_and_ids_are_unique(shown):
    page = BeautifulSoup(shown.html, "html.parser")
    ids = [tag["id"] for tag in page.select("[id]")]
    assert len(ids) == len(set(ids))
    labelled = {tag["for"] for tag in page.select("label")}
    assert labelled == {tag["id"] for tag in page.select("input, select")}
    assert [label.text for label in page.select("label")][-1] == "Precision <b>"


def test_nothing_is_fetched(shown):
    assert not re.search(r"\b(src|href|@import|fetch|XMLHttpRequest|import)\b|url\(", shown.html)
    assert set(re.findall(r"https?://[^\"'\s]*", shown.html)) == {"http://www.w3.org/2000/svg"}  # a name


def test_specification_of_the_page(shown):
    page = BeautifulSoup(shown.html, "html.parser")
    specification = json.loads(page.select_one("script.anatomy-calculator-spec").string)
    assert specification == shown.specification
    assert specification["function"] == shown.source
    assert "unused" not in shown.source
    assert specification["inputs"][1] == {
        "name": "context", "label": "Context", "start": 8192, "low": 1000, "high": 1_000_000, "step": None,
        "log": True, "unit": "tokens", "digits": 3,
    }  # fmt: skip


def test_the_script_cannot_be_closed_by_a_label():
    made = make(outputs=[Output("cache", "</script><script>alert(1)</script>")])
    assert len(BeautifulSoup(made.html, "html.parser").select("script")) == 2


def test_same_bytes_each_time(shown):
    assert make().html == shown.html
    assert make(caption="Another.").html.split("\n")[0] != shown.html.split("\n")[0]


@pytest.mark.slow
def test_same_bytes_in_another_process(shown):
    code = "import sys; from test_calculator import make; sys.stdout.buffer.write(make().html.encode())"
    paths = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])  # the same library, wherever it lies
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        env=environment,
        capture_output=True,
        check=True,
    )
    assert done.stdout == shown.html.encode()


def test_repr_has_no_address(shown):
    expected = "Calculator cache (Cache: 503 MB; Share of 80 GB: 0.629 %; Fits: yes; Elasticity: 1.0)"
    assert repr(shown) == expected
    assert shown._repr_html_() == shown.html


def test_double_precision_is_left_switched_off():
    before = jnp.asarray(1.0).dtype
    make()
    assert jnp.asarray(1.0).dtype == before


# What is computed.


def evaluate(row):
    with jax.enable_x64(True):
        return {name: np.asarray(value).item() for name, value in cache(**row).items() if name != "unused"}


@needs_node
def test_the_printed_function_is_the_function(shown):
    rng = np.random.default_rng(4)
    rows = [
        {"layers": float(rng.integers(1, 200)), "context": 10 ** rng.uniform(3, 6), "bytes_per_value": 2.0}
        for _ in range(200)
    ]
    for row, found in zip(rows, run_javascript(shown.source, rows), strict=True):
        assert found == pytest.approx(evaluate(row), rel=1e-12)


@needs_node
def test_the_page_at_its_start_is_what_jax_says(shown):
    start = {item["name"]: item["start"] for item in shown.specification["inputs"]}
    assert run_javascript(shown.source, [start])[0] == pytest.approx(shown.results, rel=1e-12)


@needs_node
def test_logarithmic_sliders_hit_their_ends_and_three_digits():
    slider = Slider("n", "N", start=8192, low=512, high=131_072, log=True)
    whole = Slider("n", "N", start=8, low=1, high=4096, log=True, step=1)
    rows = []
    for item in (slider, whole):
        tag = BeautifulSoup(item.html("key"), "html.parser").select_one("input")
        first, last = int(tag["value"]), int(tag["max"])
        rows += [{"input": item.specification, "tick": tick, "first": first, "last": last} for tick in range(last + 1)]
    found = run_runtime("({value: anatomyCalculator.sliderValue(x.input, x.tick, x.first, x.last)})", rows)
    found = [row["value"] for row in found]
    assert found == pytest.approx(sorted(found[: rows[0]["last"] + 1]) + sorted(found[rows[0]["last"] + 1 :]))
    for row, value in zip(rows, found, strict=True):
        item = row["input"]
        assert item["low"] <= value <= item["high"]
        if row["tick"] in (0, row["first"], row["last"]):
            at = {0: "low", row["first"]: "start", row["last"]: "high"}[row["tick"]]
            assert value == item[at]
        elif item["step"]:
            assert value == int(value)
        else:
            assert value == float(f"{value:.2e}")


# What is refused.


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"start": 300}, r"Slider\('x'\).start is 300.0; allowed: 1 to 200"),
        ({"start": 1.5}, r"Slider\('x'\).start is 1.5; allowed: 1 plus whole steps of 1, such as 1 or 2"),
        ({"low": 200}, r"Slider\('x'\).low is 200.0; allowed: a number below high \(200\)"),
        ({"low": 0, "log": True}, r"Slider\('x'\).low is 0.0; allowed: above 0"),
        ({"step": 0}, r"Slider\('x'\).step is 0.0; allowed: above 0"),
        ({"step": 1000}, r"Slider\('x'\).step is 1000.0; allowed: .* at most high - low \(199\)"),
        ({"high": float("inf")}, r"Slider\('x'\).high is inf; allowed: a finite number"),
    ],
)
def test_a_slider_refuses(fields, message):
    with pytest.raises(ValueError, match=message):
        Slider("x", "X", **({"start": 2, "low": 1, "high": 200, "step": 1} | fields))


@pytest.mark.parametrize(("start", "low", "high", "step"), [(0.3, 0.1, 0.6, 0.01), (0.35, 0, 1, 0.05)])
def test_decimal_steps_are_on_the_grid(start, low, high, step):
    Slider("x", "X", start=start, low=low, high=high, step=step)


def test_a_choice_refuses_what_is_no_option():
    with pytest.raises(ValueError, match=r"Choice\('x'\).start is 4; allowed: one of 2 \(FP16\), 1 \(INT8\)"):
        Choice("x", "X", start=4, options={"FP16": 2, "INT8": 1})


def test_an_output_refuses_digits():
    with pytest.raises(ValueError, match=r"Output\('x'\).digits is 0; allowed: a whole number from 1 to 15"):
        Output("x", "X", digits=0)


slider = Slider("layers", "Layers", start=120, low=1, high=200, step=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"outputs": [Output("cash", "Cash")]},
            "Output.name is 'cash'; allowed: a result of cache: cache, ",
        ),
        ({"outputs": [Output("cache", "A")] * 2}, "calculator.outputs is 'cache'; allowed: each name once"),
        ({"outputs": []}, r"calculator.outputs is \[\]; allowed: at least one"),
        ({"inputs": [slider, slider]}, "calculator.inputs is 'layers'; allowed: each name once"),
        ({"inputs": [slider]}, r"calculator.inputs is \['layers'\]; allowed: with 'context', a parameter of"),
        (
            {"inputs": [Slider("width", "W", start=1, low=1, high=2, step=1)]},
            "calculator.inputs is 'width'; allowed: a parameter of cache: layers, context, bytes_per_value",
        ),
        (
            {"curve": Curve("bytes_per_value", "cache")},
            "Curve.x is 'bytes_per_value'; allowed: the name of",
        ),
        ({"curve": Curve("context", "unused")}, "Curve.y is 'unused'; allowed: the name of an output: cache"),
        (
            {"function": lambda layers, context, bytes_per_value: {"cache": jnp.log(-layers)}},
            "at the start values.cache is nan; allowed: a finite number",
        ),
    ],
)
def test_a_calculator_refuses(changes, message):
    if "function" in changes:
        changes = {"outputs": [Output("cache", "Cache")]} | changes
    changes = {"curve": None} | changes
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_what_has_no_javascript_stops_the_build():
    with pytest.raises(NotImplementedError, match="cache uses the JAX primitive 'stack'"):
        make(outputs=[Output("unused", "Least")], curve=None)


# In a browser.


@pytest.fixture(scope="module")
def browser():
    if not Path(CHROMIUM).exists():
        pytest.skip(f"{CHROMIUM} is not installed: the page cannot be opened")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGS)
        yield opened
        opened.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_a_page_answers_the_keyboard(browser, shown, tmp_path, width):
    other = make(caption="The second on the page.", curve=None)
    long = Output("cache", "A label that is rather long", unit="$ per 1,000 tokens and layer, amortized")
    third = make(outputs=[long], caption="With a long unit.", curve=None)
    file = tmp_path / "page.html"
    viewport = '<meta name="viewport" content="width=device-width">'
    head = f'<!doctype html><html lang="en"><meta charset="utf-8">{viewport}'
    body = shown.html + other.html + third.html
    file.write_text(f"{head}<title>A page</title><body>{body}", encoding="utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    problems, requests = [], []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(file.as_uri())

    def read(root, name):
        return root.locator(f'output[data-output="{name}"]').inner_text()

    def wanted(**changes):
        row = {"layers": 120.0, "context": 8192.0, "bytes_per_value": 2.0} | changes
        return quantity(evaluate(row)["cache"], "bytes")

    first, second = (page.locator(".anatomy-calculator").nth(i) for i in (0, 1))
    assert read(first, "cache") == read(second, "cache") == wanted() == "503 MB"
    dot = first.locator("circle")
    before = dot.get_attribute("cx")

    layers = first.get_by_label("Layers")
    layers.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    assert layers.get_attribute("aria-valuetext") == "118"
    assert read(first, "cache") == wanted(layers=118.0)
    assert read(second, "cache") == wanted(), "only the calculator that was touched moves"

    first.get_by_label("Context", exact=True).focus()
    page.keyboard.press("End")
    assert read(first, "cache") == wanted(layers=118.0, context=1e6)
    assert float(dot.get_attribute("cx")) > float(before)
    first.get_by_label("Precision <b>").select_option("8")
    assert read(first, "cache") == wanted(layers=118.0, context=1e6, bytes_per_value=1.0)
    first.get_by_role("button", name="Reset").click()
    assert read(first, "cache") == wanted()
    assert dot.get_attribute("cx") == before

    assert page.evaluate("document.documentElement.scrollWidth") <= width, "the page scrolls sideways"
    for control in page.locator(".anatomy-calculator :is(input, select, button)").all():
        assert control.bounding_box()["height"] >= 44, "too small for a finger"
    page.set_viewport_size({"width": 340, "height": 900})
    page.wait_for_function("document.querySelector('.curve svg').getBoundingClientRect().right <= innerWidth")
    assert problems == []
    assert requests == [file.as_uri()]
    page.close()


@pytest.mark.slow
@pytest.mark.parametrize("width", [1280, 390])
def test_logarithmic_axes_have_ticks_that_can_be_read(browser, tmp_path, width):
    ranges = [(256, 262_144), (14, 1100), (1.5, 4096), (210, 900), (0.3, 10), (60, 5000), (3, 4)]
    pages = [
        calculator(
            lambda x: {"y": x},
            inputs=[Slider("x", "A quantity", start=low, low=low, high=high, log=True)],
            outputs=[Output("y", "Another")],
            curve=Curve("x", "y", log=True),
        ).html
        for low, high in ranges
    ]
    file = tmp_path / "page.html"
    viewport = '<meta name="viewport" content="width=device-width">'
    file.write_text(f'<!doctype html><html lang="en"><meta charset="utf-8">{viewport}<body>{"".join(pages)}', "utf-8")
    page = browser.new_page(viewport={"width": width, "height": 900})
    page.goto(file.as_uri())
    assert overlapping_labels(page) == []
    for chart in page.locator("svg").all():
        assert chart.locator("text[text-anchor=middle]").count() >= 2, "no scale on the horizontal axis"
        assert chart.locator("text[text-anchor=end]:not(.title)").count() >= 2, "no scale on the vertical axis"
    page.close()
