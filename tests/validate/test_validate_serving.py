"""Published figures of models that serve: rows of the library and of a user, predicted and held against."""

import dataclasses

import numpy as np
import pytest
from anatomy.__main__ import main
from anatomy.cost.efficiency import overheads
from anatomy.cost.serving.request import request
from anatomy.specs import catalogue
from anatomy.validate import compare, mean_error, read, serving
from support.rows import changed, write

BUILT, REFUSED_BUILT = read("serving")
LATER, REFUSED_LATER = read("serving_further")
POPE = [run for run in BUILT if run.source == "pope2023efficiently"]
ROWS = compare(LATER)
GOOD = {
    "name": "good",
    "architecture": "llama2_70b",
    "chip": "a100_sxm_80gb",
    "chips": 16,
    "plan": {"tensor": 8},
    "batch": 8,
    "prompt": 512,
    "answer": 128,
    "published": {"seconds": 3.0},
}


def of(*programs: str, **wanted) -> list:
    """Rows of the later set whose names begin so."""
    return [row for row in ROWS if row.run.name.startswith(programs) and wanted.items() <= vars(row).items()]


# The rows of the library.


def test_every_row_can_be_used_and_has_a_source(references):
    assert REFUSED_BUILT == REFUSED_LATER == []
    assert {run.source for run in BUILT + LATER} <= references
    assert len({run.name for run in BUILT + LATER}) == len(BUILT + LATER) > 120
    assert not any(run.fitted for run in LATER)


@pytest.mark.parametrize("run", POPE, ids=lambda run: run.name)
def test_pope_et_al_are_met_within_five_per_cent(run):
    assert all(abs(row.error) < 0.05 for row in compare([run]))  # seconds and utilisation


def test_two_constants_are_fitted_on_two_rows_of_pope_et_al_and_one_on_four_of_gpt_fast():
    fitted = [name for run in POPE for name in run.fitted]
    assert sorted(fitted) == ["kernel", "matmul"]
    assert [run.fitted for run in BUILT if run not in POPE] == [("kernel",)] * 4


@pytest.mark.parametrize("generation, name", [("ampere", "kernel"), ("tpu", "kernel"), ("tpu", "matmul")])
def test_the_catalogue_has_what_a_fit_gives(generation, name):
    """Rounded."""
    rows = [run for run in BUILT if run.generation == generation and name in run.fitted]
    constants = overheads(rows[0].chip)
    there = getattr(constants, name, None) or getattr(constants.efficiency, name)
    assert serving.fit(rows, name) == pytest.approx(there, rel=0.015)


def test_constants_matter():
    """With those of another generation the rows are not met, so the test can fail."""
    other = overheads("a100_sxm_80gb")
    assert max(abs(run.error(other)) for run in POPE) > 0.15
    assert max(abs(run.error(serving.changed(overheads("tpu_v4"), "kernel", 20e-6))) for run in POPE) > 0.5


def test_recorded_graphs_in_16_bits_are_met():
    """The program of the fitted rows, on other models, mixtures among them; one row is an outlier of its own table."""
    rows = [row for row in of("gpt-fast") if row.run.plan.weight_bytes == 2]
    assert len(rows) == 13 and mean_error(rows) < 0.12
    assert sorted(abs(row.error) for row in rows)[-2] < 0.15


def test_large_batches_on_one_chip_are_met():
    """Throughput of another maker's program, in 16 and in 8 bits, with prompts and answers; nothing fitted."""
    rows = [row for row in of("TensorRT-LLM 0.6.1") if row.run.cluster.chips == 1]
    assert len(rows) == 13 and mean_error(rows) < 0.06 and max(abs(row.error) for row in rows) < 0.2


def test_where_it_fails_is_known():
    """Kernels that read a cache once a query head, eager launches, narrow weights: all slower than predicted."""
    grouped = [row for row in of("TensorRT-LLM 0.6.1") if row.run.model.attention.kv_heads == 8]
    long = [row for row in grouped if row.run.answer == 2048]
    assert len(long) == 6 and min(row.speed for row in long) > 1.7
    eager = of("FasterTransformer")
    assert sum(row.speed > 1 for row in eager) > 0.9 * len(eager) and max(row.speed for row in eager) < 2
    narrow = [row for row in of("gpt-fast") if row.run.plan.weight_bytes < 2]
    assert all(row.speed > 1.1 for row in narrow)


def test_the_model_says_what_a_good_program_reaches():
    assert min(row.speed for row in ROWS) > 0.75
    assert np.mean([row.speed > 1 for row in ROWS]) > 0.75


def test_the_prediction_is_that_of_a_request():
    run = next(run for run in LATER if run.name.startswith("FasterTransformer, GPT 175B, 8 A100, 16 x 512"))
    made = request(
        run.model, run.plan, run.cluster, run.constants, batch=run.batch, prompt=run.prompt, answer=run.answer
    )
    (row,) = compare([run])
    assert row.predicted == pytest.approx(float(made.seconds), rel=1e-6)
    assert run.predict().mfu == pytest.approx(float(made.mfu), rel=1e-6)


# Rows of one's own.


def test_a_row_of_one_s_own_is_read_beside_rows_of_training(tmp_path, capsys):
    training = {
        "name": "trained", "architecture": "llama2_7b", "chip": "a100_sxm_80gb", "chips": 64, "plan": {"tensor": 4},
        "batch": 256, "sequence_length": 2048, "published": {"mfu": 0.45},
    }  # fmt: skip
    path = write(tmp_path / "mine.toml", GOOD, training)
    (mine, other), refused = read(path)
    assert refused == [] and other.name == "trained"
    assert float(mine.plan.data) == 2 and mine.steps == 127
    assert main(["validate", path]) == 0
    shown = capsys.readouterr().out
    assert "good" in shown and "seconds" in shown and "trained" in shown
    assert main(["validate", "serving"]) == 0
    assert "mean absolute error, not fitted" in capsys.readouterr().out


def test_a_prompt_may_follow_what_is_cached(tmp_path):
    (run,), _ = read(write(tmp_path / "mine.toml", {**GOOD, "cached": 1000}))
    made = run.predict()
    assert float(made.read.cache) > float(dataclasses.replace(run, cached=0.0).predict().read.cache)
    assert float(made.read.tokens) == 8 * 512


@pytest.mark.parametrize(
    "path, value, words",
    [
        (("prompts",), 5, "run.prompts is not a field; nearest: prompt"),
        (("chips",), ..., "chips missing; a run needs name"),
        (("answer",), 0, "run.answer is 0; allowed: a whole number above 0"),
        (("batch",), 1.5, "run.batch is 1.5; allowed: a whole number above 0"),
        (("architecture",), "llama9", "architectures entry 'llama9'; nearest"),
        (("chip",), "iphone_14", "has no link"),
        (("chip",), 5, "run.chip is 5; allowed: a name of the catalogue"),
        (("plan", "data"), 2, "plan.data is not a field"),
        (("plan", "tensor"), 5, "run.chips is 16; allowed: a multiple of tensor x pipeline (5)"),
        (("plan", "tensor"), [1], "plan.tensor is [1]; allowed: a single value"),
        (("plan", "weight_bytes"), -1, "Serving.weight_bytes is -1; allowed"),
        (("batch",), 7, "run.batch is 7; allowed: a multiple of data (2)"),
        (("plan", "micro_batches"), 8, "the plan cannot be run: 4 sequences are fewer than 8 micro-batches"),
        (("architecture",), "mtnlg_530b", "the plan needs 1.3"),
        (("fitted",), ["speed"], "run.fitted is ['speed']; allowed: a list of hop, network_hop, kernel"),
        (("link",), 0, "run.link is 0; allowed: a number above 0"),
        (("published",), {}, "run.published is {}; allowed: one or more of seconds"),
        (("published", "seconds"), 1e-4, "published.seconds is 0.0001; allowed: "),
        (("published", "seconds"), 1e6, "published.seconds is 1e+06; allowed: "),
        (("published", "mfu"), 0.0001, "published.mfu is 0.0001; allowed: "),
        (("published", "tokens_per_second"), 100.0, "published numbers contradict each other"),
        (("weak",), "yes", "run.weak is 'yes'; allowed: true, false"),
    ],
)
def test_a_bad_row_is_refused_with_the_reason_and_the_others_go_on(tmp_path, path, value, words):
    (good,), (refused,) = read(write(tmp_path / "mine.toml", changed(path, value, GOOD), GOOD))
    assert good.name == "good" and refused.name == "bad"
    assert words in refused.reason


def test_lengths_must_suit_what_was_published(tmp_path):
    only_prompt = {key: value for key, value in GOOD.items() if key != "answer"}
    for published, length in (("time_per_output_token", "answer"), ("tokens_per_second", "answer")):
        row = {**only_prompt, "published": {published: 0.1}}
        _, (refused,) = read(write(tmp_path / "mine.toml", row))
        assert f"published.{published} needs run.{length}" in refused.reason
    gpt3 = {**GOOD, "architecture": "gpt3_175b", "prompt": 2000}
    _, (refused,) = read(write(tmp_path / "mine.toml", gpt3))
    assert "cached, prompt and answer are 2128; allowed: at most learned_positions (2048)" in refused.reason
    neither = {key: value for key, value in only_prompt.items() if key != "prompt"} | {"cached": 5}
    _, (refused,) = read(write(tmp_path / "mine.toml", neither))
    assert refused.reason == "prompt and answer missing; a run needs one of them"


def test_slices_are_tori_of_equal_sides():
    cluster = catalogue.torus("tpu_v4", 64)
    assert float(cluster.node.link.side) == 4 and float(cluster.chips) == 64
    with pytest.raises(ValueError, match=r"torus.chips is 60; allowed: a power of 3"):
        catalogue.torus("tpu_v4", 60)
    with pytest.raises(KeyError, match="has no axes"):
        catalogue.torus("h100_sxm", 8)
