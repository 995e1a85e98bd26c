"""The published runs: accuracy, and what happens to rows that cannot be used."""

import dataclasses

import pytest
from anatomy.__main__ import main
from anatomy.cost.efficiency import efficiency
from anatomy.validate import compare, mean_error, read
from anatomy.validate.published import MEASURES, Row

RUNS, REFUSED = read()
ROWS = compare(RUNS)

GOOD = """
[[run]]
name = "mine"
architecture = { layers = 32, d_model = 4096, heads = 32, vocabulary = 32000 }
chip = "a100_sxm_80gb"
chips = 64
plan = { tensor = 4, pipeline = 2, micro_batch = 2, recompute = "selective" }
batch = 256
sequence_length = 2048
published = { mfu = 0.45 }
"""


def group(**wanted) -> list[Row]:
    return [row for row in ROWS if all(getattr(row.run, name) == value for name, value in wanted.items())]


def test_all_runs_of_the_library_can_be_used():
    assert REFUSED == [] and len(RUNS) >= 19


def test_accuracy_is_what_the_book_claims():
    megatron = "narayanan2021megatron"
    assert mean_error(group(fitted=True, source=megatron)) <= 0.04
    assert mean_error(group(fitted=False, source=megatron)) <= 0.07
    facts = [row for row in ROWS if row.run.name.startswith(("Megatron-Core", "Llama"))]
    assert mean_error(facts) <= 0.10
    palm = next(row for row in ROWS if row.run.name == "PaLM 540B" and row.measure == "mfu")
    assert abs(palm.predicted - palm.published) <= 0.03


def test_every_second_megatron_row_is_fitted_and_nothing_else_but_one_run():
    fitted = [run.name for run in RUNS if run.fitted]
    megatron = [run for run in RUNS if run.name.startswith("Megatron-LM")]
    assert [run.fitted for run in megatron] == [True, False] * 5
    assert len(fitted) == 6


@pytest.mark.parametrize("index", [0, 5, -2, -1])
def test_a_run_that_publishes_its_own_prediction_has_no_error(index):
    """Published are the predictions, half of them and twice them; compare computes its own."""
    plain = dataclasses.replace(RUNS[index], published=dict.fromkeys(MEASURES, 1.0), tokens_trained=1e12)
    predicted = {row.measure: row.predicted for row in compare([plain])}
    assert set(predicted) == set(MEASURES)
    for factor, error in ((1.0, 0.0), (0.5, 1.0), (2.0, -0.5)):
        rows = compare([dataclasses.replace(plain, published={k: factor * v for k, v in predicted.items()})])
        assert [row.error for row in rows] == pytest.approx([error] * len(MEASURES), abs=1e-12)
        assert mean_error(rows) == pytest.approx(abs(error), abs=1e-12)


def test_a_prediction_is_of_the_run_that_it_stands_beside():
    """The run counts: with other chips, plan or constants the prediction is another."""
    run = RUNS[5]
    published = compare([run])[0].predicted
    own = dataclasses.replace(run, published={"tflops_with_recompute": published})
    assert compare([own])[0].error == 0.0
    slower = dataclasses.replace(own, plan=own.plan.replace(zero=3.0))
    assert compare([slower])[0].error < -0.01
    half = dataclasses.replace(efficiency("a100_sxm_80gb"), matmul=efficiency("a100_sxm_80gb").matmul / 2)
    assert float(own.predict(half).seconds) > 1.5 * float(own.predict().seconds)


def read_text(tmp_path, text):
    path = tmp_path / "runs.toml"
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("chips = 64", "chipz = 64", "run.chipz is not a field; nearest: chip"),
        ("sequence_length = 2048\n", "", "sequence_length missing; a run needs"),
        ("batch = 256", "batch = -1", "run.batch is -1; allowed: a whole number above 0"),
        ('"a100_sxm_80gb"', '"a100_sxm_80g"', "nearest: a100_sxm_80gb"),
        ("{ layers = 32, d_model = 4096, heads = 32, vocabulary = 32000 }", '"gpt5"', "architectures entry 'gpt5'"),
        ("heads = 32, ", "", "architecture.heads missing"),
        ("heads = 32,", "heads = 32, haeds = 2,", "architecture.haeds is not a field; nearest: heads"),
        ("tensor = 4", "tensor = 5", "allowed: a multiple of tensor x pipeline (10)"),
        ("tensor = 4", "tensor = 64, data = 1", "plan.data is not a field"),
        ("pipeline = 2", "pipeline = 2, chunks = 20", "20 chunks do not divide the layers of a stage (32 on 2 stages)"),
        (
            "heads = 32",
            "heads = 30, kv_heads = 30, head_dim = 128",
            "the plan cannot be run: 30 heads do not split 4 ways",
        ),
        ('"selective"', '"sometimes"', "plan.recompute is 'sometimes'; allowed: none, selective, full"),
        ("{ mfu = 0.45 }", "{}", "run.published is {}; allowed: one or more of seconds"),
        ("mfu = 0.45", "mfu = 0", "published.mfu is 0; allowed: a number above 0"),
        ("mfu = 0.45", "mfo = 0.45", "published.mfo is not a field; nearest: mfu"),
        ("batch = 256", "batch = 8", "run.batch is 8; allowed: a multiple of data x micro_batch (8 x 2)"),
        ("mfu = 0.45", "mfu = 45", "published.mfu is 45; allowed: 0.00"),
        ('chip = "a100_sxm_80gb"', 'chip = "iphone_14"', "has no link to other chips"),
    ],
)
def test_a_bad_row_is_refused_and_the_others_go_on(tmp_path, old, new, reason):
    assert old in GOOD
    runs, refused = read_text(tmp_path, GOOD.replace(old, new).replace('"mine"', '"bad"') + GOOD)
    assert [run.name for run in runs] == ["mine"]
    assert [row.name for row in refused] == ["bad"] and reason in refused[0].reason


def test_a_table_that_is_no_table(tmp_path):
    runs, refused = read_text(tmp_path, GOOD.replace("plan = {", "plan = 8 # {") + GOOD)
    assert len(runs) == 1 and "plan is 8; allowed: a table" in refused[0].reason


def test_the_command(tmp_path, capsys):
    path = tmp_path / "runs.toml"
    path.write_text(GOOD)
    assert main(["validate", str(path)]) == 0
    shown = capsys.readouterr()
    assert "mine" in shown.out and "mean absolute error, not fitted" in shown.out and shown.err == ""
    path.write_text(GOOD + GOOD.replace("chips = 64", "chips = 63"))
    assert main(["validate", str(path)]) == 1
    shown = capsys.readouterr()
    assert "refused: mine: run.chips is 63" in shown.err and "0.45" in shown.out
    path.write_text(GOOD.replace("chips = 64", "chips = 63"))
    assert main(["validate", str(path)]) == 2
    path.write_text("not toml [")
    assert main(["validate", str(path)]) == 2
    assert "is not TOML" in capsys.readouterr().err
    assert main(["validate", str(tmp_path / "absent.toml")]) == 2
    assert main(["validate"]) == 0


def test_constants_belong_to_generations_of_chips():
    assert {run.generation for run in RUNS} == {"ampere", "hopper", "tpu"}
    hopper, ampere = efficiency("h100_sxm"), efficiency("a100_sxm_80gb")
    assert (hopper.half_size, hopper.memory, hopper.link, hopper.network) == (
        ampere.half_size, ampere.memory, ampere.link, ampere.network,
    )  # fmt: skip


def test_nothing_to_average():
    with pytest.raises(ValueError, match="no rows"):
        mean_error([])
