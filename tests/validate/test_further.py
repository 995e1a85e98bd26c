"""The runs and the hours that the library met after the model was made."""

import dataclasses

import pytest
from anatomy import specs
from anatomy.__main__ import main
from anatomy.validate import compare, hours, mean_error, read
from anatomy.validate.published import MEASURES

RUNS, REFUSED = read("further")
ROWS = [row for row in compare(RUNS) if row.measure != "memory"]


def of(source: str, **wanted) -> list:
    return [row for row in ROWS if row.run.source == source and wanted.items() <= vars(row.run).items()]


def test_every_row_can_be_used_and_none_is_fitted():
    assert REFUSED == []
    assert len(RUNS) > 60 and not any(run.fitted for run in RUNS)
    assert len({run.name for run in RUNS}) >= len(RUNS) - 1  # one plan was measured twice


def test_every_source_is_in_the_bibliography(references):
    assert {run.source for run in RUNS} | {row.source for row in hours.published_hours()} <= references


def test_the_maker_of_the_fitted_rows_is_predicted_as_well_elsewhere():
    """Selective recomputation, interleaving and single replicas, by the same group on the same chips."""
    assert mean_error(of("korthikanti2023reducing")) <= 0.06
    table_2 = [row for row in of("narayanan2021megatron") if "ZeRO" not in row.run.name]
    assert mean_error(table_2) <= 0.07


def test_where_it_fails_is_known():
    """Full sharding as it was in 2021: predicted far too fast, and the further the more chips."""
    zero = [row for row in of("narayanan2021megatron") if "ZeRO" in row.run.name]
    assert len(zero) == 6 and all(row.error > 0.15 for row in zero)
    assert zero[0].error < zero[1].error < zero[2].error


def test_of_the_makers_of_models_all_are_slower_than_the_model_says_or_close():
    assert min(row.speed for row in ROWS) > 0.8
    assert sum(row.speed > 1 for row in ROWS) > 0.6 * len(ROWS)


def test_measured_memory_is_above_the_model_by_what_a_chip_keeps_for_itself():
    rows = [row for row in compare(RUNS) if row.measure == "memory"]
    assert len(rows) > 15
    over = [(row.published - row.predicted) / 1e9 for row in rows]
    assert min(over) > 0 and max(over) < 25


def test_speed_and_error_agree():
    for row in ROWS:
        power = MEASURES[row.measure].power
        assert power in (1, -1)
        assert row.speed == pytest.approx((1 + row.error) ** power, rel=1e-12)


# Hours.


def test_hours_follow_from_tokens_and_their_rate():
    for run in RUNS:
        if "gpu_hours" in run.published:
            (row,) = [row for row in compare([run]) if row.measure == "gpu_hours"]
            chips = float(run.cluster.chips)
            seconds = run.tokens_trained / float(run.predict().tokens_per_second)
            assert row.predicted == pytest.approx(seconds * chips / 3600, rel=1e-12)
            # The same as steps times seconds a step.
            steps = run.tokens_trained / (run.batch * run.sequence_length)
            assert row.predicted == pytest.approx(steps * float(run.predict().seconds) * chips / 3600, rel=1e-12)


def test_implied_utilisation_by_hand():
    llama = next(row for row in hours.published_hours() if row.name == "LLaMA 65B")
    expected = 6 * specs.architecture("llama_65b").parameters.total * 1.4e12 / (1022362 * 3600 * 312e12)
    assert llama.by_parameters == pytest.approx(expected, rel=1e-9)
    assert llama.by_flop > llama.by_parameters  # attention comes on top


def test_utilisation_is_a_share():
    for row in hours.published_hours():
        assert 0.1 < row.by_parameters < row.by_flop < 0.6, row.name
        made = row.predict()
        assert (made is None) is (row.cluster is None)
        if made is not None:
            assert 0.2 < float(made.mfu) < 0.65, row.name
            assert bool(made.fits) or row.plan is not None, row.name  # a published plan ran, whatever the model says
            assert float(made.chips) == float(row.cluster.chips)  # a plain plan leaves no chip idle


def test_the_plain_plan_is_plain_and_the_fastest_of_its_kind():
    row = next(row for row in hours.published_hours() if row.name == "LLaMA 65B")
    plan = hours.plain_plan(row.model, row.cluster, batch=row.batch, sequence_length=row.sequence_length, key=row.chip)
    assert float(plan.tensor) <= 8 and float(plan.chips) == 2048
    assert float(plan.micro_batches(row.batch)) % 1 == 0 and float(plan.overlap) == 0
    best = float(row.predict().seconds)
    for change in ({"zero": 3.0}, {"chunks": 1.0}, {"recompute": 2.0}):
        slower = dataclasses.replace(row, plan=plan.replace(**change))
        assert float(slower.predict().seconds) >= best
    with pytest.raises(ValueError, match="without a rest"):
        hours.plain_plan(row.model, row.cluster, batch=2047.0, sequence_length=2048.0, key=row.chip)


def test_a_run_with_hours_is_a_training_with_its_own_plan():
    run = next(run for run in RUNS if run.name == "BLOOM 176B, whole run")
    training = hours.of_run(run)
    assert float(training.predict().seconds) == float(run.predict().seconds)
    (row,) = compare([run])
    assert training.by_flop / float(training.predict().mfu) == pytest.approx(1 / row.speed, rel=1e-9)


def test_the_command_knows_the_files_of_the_library(capsys):
    assert main(["validate", "further"]) == 0
    shown = capsys.readouterr().out
    assert "ZeRO-3 alone, 175B, 1,536 chips" in shown and "memory" in shown
    assert main(["validate", "runs"]) == 0
    assert "PaLM 540B" in capsys.readouterr().out
