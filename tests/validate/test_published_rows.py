"""Rows of a user's own file: what is refused and why, that nothing stops the others, and that numbers round-trip."""

import dataclasses
import math
from importlib.resources import files
from unittest import mock

import hypothesis.strategies as st
import pytest
from anatomy.__main__ import main
from anatomy.cost.efficiency import efficiency
from anatomy.cost.training import legality
from anatomy.specs import catalogue
from anatomy.validate import compare, mean_error, published, read
from anatomy.validate.published import MEASURES, NEEDED
from hypothesis import given, settings
from support import rows
from support.rows import write

GOOD = {
    "name": "good",
    "architecture": {"layers": 32, "d_model": 4096, "heads": 32, "vocabulary": 32000},
    "chip": "a100_sxm_80gb",
    "chips": 64,
    "plan": {"tensor": 4, "pipeline": 2, "micro_batch": 2, "recompute": "selective"},
    "batch": 256,
    "sequence_length": 2048,
    "published": {"mfu": 0.45},
}


def changed(path: tuple[str, ...], value, row: dict = GOOD) -> dict:
    """The good row with one field changed; called bad."""
    return rows.changed(path, value, row)


MIXED = {**GOOD["architecture"], "experts": 8, "top_k": 2}

BAD = [
    (("chips",), 100, "run.chips is 100; allowed: a multiple of tensor x pipeline (8)"),
    (("chips",), "64", "run.chips is '64'; allowed: a whole number above 0"),
    (("chips",), 63.5, "run.chips is 63.5; allowed: a whole number above 0"),
    (("chips",), True, "run.chips is True"),
    (("chips",), [64], "run.chips is [64]"),
    (("chips",), 10**400, "run.chips is 1000"),
    (("node",), 2.5, "run.node is 2.5; allowed: a whole number above 0"),
    (("sequence_length",), 2048.5, "run.sequence_length is 2048.5; allowed: a whole number above 0"),
    (("fitted",), "false", "run.fitted is 'false'; allowed: true, false"),
    (("fitted",), 1, "run.fitted is 1; allowed: true, false"),
    (("name",), 7, "run.name is 7; allowed: text"),
    (("name",), "", "run.name is ''; allowed: text"),
    (("source",), ["a", "b"], "run.source is ['a', 'b']; allowed: text"),
    (("note",), 1.5, "run.note is 1.5; allowed: text"),
    (("chip",), 100, "run.chip is 100; allowed: a name of the catalogue"),
    (("architecture", "experts"), [8], "architecture.experts is [8]; allowed: a single value"),
    (("architecture", "d_model"), 10**400, "architecture.d_model is 1000"),
    (("architecture", "name"), "mine", "architecture.name is not a field"),
    (("plan", "micro_batch"), [2], "plan.micro_batch is [2]; allowed: a single value"),
    (("plan", "zero"), "1", "Plan.zero is '1'"),
    (("plan", "recompute"), ["full"], "plan.recompute is ['full']"),
    (("plan", "sequence_parallel"), "true", "Plan.sequence_parallel is 'true'"),
    (("plan", "overlap"), math.nan, "Plan.overlap is nan"),
    (("sequence_length",), math.nan, "run.sequence_length is nan"),
    (("batch",), math.inf, "run.batch is inf"),
    (("seqence",), 2048, "run.seqence is not a field; nearest: sequence_length"),
    (("efficiency",), {"matmul": 0.9}, "run.efficiency is not a field"),  # no constant per run
    (("chip",), "h100", "nearest: h100_sxm"),
    (("chip",), "zzz", "chips entry 'zzz'; nearest: "),
    (("chip",), "iphone_14", "no link to other chips"),
    (("architecture",), "gpt3", "nearest: gpt3_175b"),
    (("architecture",), 7, "architecture is 7; allowed: a table"),
    (("architecture", "layers"), ..., "architecture.layers missing"),
    (("architecture", "d_model"), -4096, "architecture.d_model is -4096; allowed: a whole number above 0"),
    (("architecture", "layers"), 1.5, "architecture.layers is 1.5; allowed: a whole number"),
    (("architecture", "kv_heads"), 5, "Attention.kv_heads is 5; allowed: a divisor of heads"),
    (("architecture", "kv_head"), 8, "architecture.kv_head is not a field; nearest: kv_heads"),
    (("architecture", "heads"), 33, "Attention.head_dim is"),
    (("architecture",), {**MIXED, "top_k": 9}, "Architecture.top_k is 9; allowed: at most experts"),
    (("plan",), 8, "plan is 8; allowed: a table"),
    (("plan", "tenser"), 4, "plan.tenser is not a field; nearest: tensor"),
    (("plan", "data"), 8, "plan.data is not a field"),
    (("plan", "tensor"), 0, "plan.tensor is 0; allowed: a whole number above 0"),
    (("plan", "pipeline"), 64, "a multiple of tensor x pipeline (256)"),
    (("plan",), {"pipeline": 64}, "the plan cannot be run: 64 stages leave some without any of 32 layers"),
    (("plan",), {"tensor": 64}, "the plan cannot be run: 32 heads do not split 64 ways"),
    (("plan", "chunks"), 17, "17 chunks do not divide the layers of a stage (32 on 2 stages)"),
    (("plan", "micro_batch"), 64, "run.batch is 256; allowed: a multiple of data x micro_batch (8 x 64)"),
    (("batch",), 100, "run.batch is 100; allowed: a multiple of data x micro_batch (8 x 2)"),
    (("plan", "zero_ways"), 64, "ZeRO splits over 64 replicas; there are 8"),
    (("architecture", "d_ff"), 16385, "d_ff of 16385 does not split 4 ways"),
    (("plan",), {"tensor": 4, "chunks": 4}, "4 chunks need more than one stage"),
    (("plan", "micro_batch"), -1, "Plan.micro_batch is -1; allowed: a whole number at least 1"),
    (("plan", "recompute"), "ful", "plan.recompute is 'ful'; allowed: none, selective, full"),
    (("plan", "recompute"), 2, "plan.recompute is 2; allowed: none, selective, full"),
    (("plan", "zero"), 4, "Plan.zero is 4"),
    (("plan", "overlap"), 1.5, "Plan.overlap is 1.5; allowed: a number at least 0 and at most 1"),
    (("plan", "expert"), 3, "Plan.expert is 3; allowed: a divisor of data"),
    (("plan", "tensor"), 8.5, "plan.tensor is 8.5; allowed: a whole number above 0"),
    (
        ("architecture", "learned_positions"),
        1024,
        "run.sequence_length is 2048; allowed: at most learned_positions (1024)",
    ),
    (("network",), 1e20, "run.network is 1e+20; allowed: at most the chip's memory bandwidth"),
    (("node",), 48, "run.chips is 64; allowed: a multiple of the node's chips (48)"),
    (("network",), -1, "run.network is -1; allowed: a number above 0"),
    (("published",), {}, "run.published is {}; allowed: one or more of seconds, tflops"),
    (("published",), 0.45, "run.published is 0.45; allowed: one or more of"),
    (("published", "mfu"), -0.45, "published.mfu is -0.45; allowed: a number above 0"),
    (("published", "MFU"), 0.45, "published.MFU is not a field"),
    (("published", "mfu"), 45.0, "published.mfu is 45; allowed: 0.00"),
    (("published", "mfu"), 0.99, "published.mfu is 0.99; allowed: 0.00"),  # with the scores that are computed again
    (("published",), {"tflops": 313}, "published.tflops is 313; allowed: 0.30"),
    (("published",), {"tflops_with_recompute": 313}, "published.tflops_with_recompute is 313; allowed: 0.312 to 312"),
    (("published", "tokens_per_second"), 1e9, "published.tokens_per_second is 1e+09; allowed: "),
    (("published", "seconds"), 0.1, "published.seconds is 0.1; allowed: "),
    (("published",), {"seconds": 1e9}, "published.seconds is 1e+09; allowed: "),
    (("published", "seconds"), 1000.0, "published numbers contradict each other: mfu 0.45 is 2.4"),
    (("published", "memory"), 90e9, "published.memory is 9e+10; allowed: 1.68e+09 to 8.59e+10, from the weights alone"),
    (("published", "memory"), 1000.0, "published.memory is 1000; allowed: 1.68e+09 to"),
    (("plan",), {"micro_batch": 4, "recompute": "none"}, "bytes a chip by the memory model; allowed: at most"),
    (("plan",), {"tensor": 4, "pipeline": 2, "chunks": 2, "gpipe": True}, "2 chunks are for 1F1B; GPipe has one"),
    (("plan",), {"tensor": 4, "zero": 3, "zero_ways": 3}, "groups of 3 for ZeRO do not divide 16 replicas"),
    (("published", "gpu_hours"), 1e5, "published.tokens_trained missing; gpu_hours needs it"),
    (("published", "tokens_trained"), 1e12, "published.gpu_hours missing; tokens_trained needs it"),
    (("published",), {"gpu_hours": 1, "tokens_trained": 1e12}, "published.gpu_hours is 1; allowed: "),
    (("published", "mfu"), math.nan, "published.mfu is nan; allowed: a number above 0"),
    (("published", "mfu"), "45 %", "published.mfu is '45 %'; allowed: a number above 0"),
    (("network",), 1e-320, "nan; allowed: a number"),
    (("architecture", "vocabulary"), 1e299, "architecture.vocabulary is 1e+299; allowed: a whole number above 0"),
    *((((name,), ..., f"{name} missing; a run needs {', '.join(NEEDED)}")) for name in NEEDED),
]


def title(case) -> str:
    return f"{'.'.join(case[0])}={'missing' if case[1] is ... else str(case[1])[:40]}"


@pytest.mark.parametrize("where, value, reason", BAD, ids=map(title, BAD))
def test_a_bad_row_is_refused_with_the_reason_and_the_others_are_predicted(tmp_path, where, value, reason):
    runs, refused = read(write(tmp_path / "runs.toml", GOOD, changed(where, value), {**GOOD, "name": "last"}))
    assert [run.name for run in runs] == ["good", "last"]
    nameless = where == ("name",)
    assert [row.name for row in refused] == ["row 2" if nameless else "bad"]
    assert reason in refused[0].reason
    predicted = [row.predicted for row in compare(runs)]
    assert 0.3 < predicted[0] == predicted[1] < 0.6


def test_experts_that_do_not_split_are_refused(tmp_path):
    row = {**GOOD, "plan": {**GOOD["plan"], "expert": 4}}
    _, refused = read(write(tmp_path / "runs.toml", GOOD, changed(("architecture",), {**MIXED, "experts": 6}, row)))
    assert [row.reason for row in refused] == ["the plan cannot be run: 6 experts do not split 4 ways"]


def test_all_that_is_wrong_with_a_plan_is_said_at_once(tmp_path):
    plan = {"tensor": 4, "pipeline": 2, "chunks": 3, "zero_ways": 64}
    _, refused = read(write(tmp_path / "runs.toml", GOOD, changed(("plan",), plan)))
    assert "chunks do not divide" in refused[0].reason and "ZeRO splits over 64" in refused[0].reason


def test_what_legality_forbids_is_refused_in_its_words(tmp_path):
    """One table of rules: whatever else is forbidden there is forbidden here."""
    words = "no plan is legal today"
    rule = (lambda case: False, words)
    with mock.patch.object(legality, "RULES", (*legality.RULES, rule)):
        runs, refused = read(write(tmp_path / "runs.toml", GOOD))
    assert runs == [] and refused[0].reason == f"the plan cannot be run: {words}"


@pytest.mark.parametrize("missing", ["generation", "flops_16bit", "memory", "memory_bandwidth", "link_bandwidth"])
def test_a_chip_without_what_the_model_needs(tmp_path, missing):
    entry = {key: value for key, value in catalogue.entry("chips", "a100_sxm_80gb").items() if key != missing}
    path = write(tmp_path / "runs.toml", GOOD, changed(("chip",), "half_a_chip"))
    with mock.patch.object(catalogue, "table", tables_with("half_a_chip", entry)):
        runs, refused = read(path)
    assert [run.name for run in runs] == ["good"] and [row.name for row in refused] == ["bad"]
    words = {"generation": "of generation None; allowed: ampere, hopper", "flops_16bit": "no 16-bit peak"}
    assert words.get(missing, "chip 'half_a_chip' has no ") in refused[0].reason


def tables_with(key: str, entry: dict):
    """The catalogues with one more chip."""
    whole = catalogue.table

    def table(name: str) -> dict:
        return whole(name) | ({key: entry} if name == "chips" else {})

    return table


def test_constants_of_a_neighbour_are_said(tmp_path, capsys):
    assert main(["validate", write(tmp_path / "runs.toml", GOOD, {**GOOD, "name": "other", "chip": "b200"})]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "constants of hopper" in lines[2] and "constants" not in lines[1]


def test_an_unknown_generation_does_not_stop_the_others(tmp_path):
    entry = {**catalogue.entry("chips", "a100_sxm_80gb"), "generation": "future"}
    with mock.patch.object(catalogue, "table", tables_with("new_chip", entry)):
        rows = GOOD, changed(("chip",), "new_chip"), {**GOOD, "name": "other"}
        runs, refused = read(write(tmp_path / "runs.toml", *rows))
        assert len(compare(runs)) == 2
    assert "of generation 'future'; allowed: ampere" in refused[0].reason


def test_a_long_value_is_shown_short(tmp_path):
    _, refused = read(write(tmp_path / "runs.toml", changed(("chips",), "9" * 5000)))
    assert refused[0].reason.startswith("run.chips is '9999") and len(refused[0].reason) < 140


def test_a_number_that_python_does_not_print(tmp_path):
    path = tmp_path / "runs.toml"
    write(path, GOOD, changed(("chips",), "BIG"))
    path.write_text(path.read_text("utf-8").replace('"BIG"', "0x" + "f" * 5000), "utf-8")
    runs, refused = read(path)
    assert len(runs) == 1 and "a number too long to print" in refused[0].reason
    path.write_text(path.read_text("utf-8").replace('name = "bad"', "name = 0x" + "f" * 5000), "utf-8")
    assert [row.name for row in read(path)[1]] == ["row 2"]
    path.write_text("chips = " + "9" * 5000, "utf-8")
    with pytest.raises(ValueError, match="is not TOML"):
        read(path)


def test_two_runs_of_one_name_are_two_runs(tmp_path):
    numbers = {"first": 0.45, "second": 0.45, "other": 0.9}
    rows = [{**GOOD, "name": name, "published": {"mfu": mfu}} for name, mfu in numbers.items()]
    runs, _ = read(write(tmp_path / "runs.toml", *rows))
    runs[1] = dataclasses.replace(runs[1], name=runs[0].name)
    rows = compare(runs)
    assert mean_error(rows) == pytest.approx(sum(abs(row.error) for row in rows) / 3, rel=1e-12)
    assert mean_error(iter(rows)) == mean_error(rows)  # an iterator serves too
    assert mean_error(row for run in runs for row in compare([run])) == mean_error(rows)


anything = st.recursive(
    st.one_of(st.booleans(), st.integers(-(10**12), 10**12), st.floats(), st.sampled_from(["", "none", "gpt4", "x"])),
    lambda inner: st.one_of(st.lists(inner, max_size=2), st.dictionaries(st.sampled_from("ab"), inner, max_size=2)),
    max_leaves=3,
)
somewhere = st.one_of(
    st.sampled_from([(key,) for key in (*GOOD, "node", "network", "fitted", "source", "note")]),
    st.sampled_from([("architecture", key) for key in ("layers", "heads", "kv_heads", "head_dim", "d_ff", "experts")]),
    st.sampled_from([("plan", key) for key in ("tensor", "pipeline", "expert", "zero", "recompute", "overlap")]),
    st.sampled_from([("published", key) for key in MEASURES]),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("rows") / "runs.toml"


@settings(max_examples=150)
@given(somewhere, anything)
def test_nothing_that_toml_can_say_stops_the_others(place, where, value):
    """Any value in any field: the row is used or refused with a reason, and the rows around it are there."""
    runs, refused = read(write(place, GOOD, changed(where, value), {**GOOD, "name": "last"}))
    assert len(runs) + len(refused) == 3 and len(refused) <= 1
    assert (runs[0].name, runs[-1].name) == ("good", "last")
    assert all(row.reason for row in refused)


# What is read is what was written.


def test_a_row_says_what_the_run_is(tmp_path):
    row = {
        **GOOD,
        "architecture": {**MIXED, "kv_heads": 8, "head_dim": 64, "d_ff": 11008, "mlp_matrices": 3},
        "chips": 128,
        "chip": "h100_sxm",
        "plan": {"tensor": 2, "pipeline": 4, "expert": 4, "recompute": "full", "sequence_parallel": True, "zero": 1},
        "node": 4,
        "network": 1e10,
        "fitted": True,
        "note": "mine",
    }
    (run,), refused = read(write(tmp_path / "runs.toml", row))
    assert refused == []
    assert (run.plan.tensor, run.plan.pipeline, run.plan.data, run.plan.expert) == (2, 4, 16, 4)
    assert (run.plan.recompute, run.plan.zero, float(run.plan.sequence_parallel)) == (2, 1, 1)
    assert (run.model.attention.kv_heads, run.model.attention.head_dim, run.model.d_ff) == (8, 64, 11008)
    assert (run.model.experts, run.model.top_k, run.model.mlp_matrices, run.model.context) == (8, 2, 3, 2048)
    assert (run.cluster.node.chips, run.cluster.nodes, run.cluster.inside.bandwidth) == (4, 32, 1e10)
    assert (run.generation, run.fitted, run.note, run.source) == ("hopper", True, "mine", "")
    # The defaults that the schema promises.
    (plain,), _ = read(write(tmp_path / "runs.toml", GOOD))
    assert (plain.model.attention.kv_heads, plain.model.attention.head_dim, plain.model.d_ff) == (32, 128, 16384)
    assert (plain.model.tied_embeddings, plain.model.mlp_matrices, plain.plan.zero, plain.fitted) == (1, 2, 0, False)
    assert (plain.cluster.node.chips, plain.cluster.inside.bandwidth) == (8, 25e9)


def test_by_name_and_by_numbers_are_the_same(tmp_path):
    numbers = {"layers": 80, "d_model": 8192, "heads": 64, "kv_heads": 8, "d_ff": 28672, "mlp_matrices": 3}
    numbers |= {"vocabulary": 32000, "tied_embeddings": False}
    plan = {**GOOD["plan"], "zero": 1}
    models = {"by name": "llama2_70b", "by numbers": numbers}
    rows = [{**GOOD, "name": name, "architecture": value, "plan": plan} for name, value in models.items()]
    runs, _ = read(write(tmp_path / "runs.toml", *rows))
    by_name, by_numbers = (row.predicted for row in compare(runs))
    assert by_name == pytest.approx(by_numbers, rel=1e-12)


@settings(max_examples=15)
@given(
    st.sampled_from([(1, 1), (2, 2), (4, 2), (8, 1)]),
    st.sampled_from(["none", "selective", "full"]),
    st.sampled_from(["a100_sxm_40gb", "a100_sxm_80gb", "h100_sxm"]),
    st.integers(1, 4),
)
def test_publishing_the_prediction_is_no_error(place, ways, recompute, chip, m):
    """Every measure, written to a file in full precision and read back."""
    plan = {"tensor": ways[0], "pipeline": ways[1], "recompute": recompute, "zero": 1}
    small = {**GOOD["architecture"], "layers": 8}
    row = {**GOOD, "architecture": small, "chip": chip, "plan": plan, "batch": 64 * m}
    (run,), _ = read(write(place, row))
    run = dataclasses.replace(run, published=dict.fromkeys(MEASURES, 1.0), tokens_trained=1e12)
    predicted = {made.measure: made.predicted for made in compare([run])}
    assert set(predicted) == set(MEASURES)
    own = predicted | {"tokens_trained": 1e12}
    if predicted["memory"] > run.cluster.node.chip.memory:
        del own["memory"]  # what the chip does not have cannot have been measured
    (run,), refused = read(write(place, {**row, "published": own}))
    assert refused == []
    for made in compare([run]):
        assert made.error == pytest.approx(0, abs=1e-12), made.measure
    # And the measures say the same thing: each by hand from the seconds.
    seconds, tokens = predicted["seconds"], 64 * m * 2048
    flop = tokens * run.model.flop_per_token(2048, backward=True).total
    assert predicted["tokens_per_second"] == pytest.approx(tokens / seconds, rel=1e-12)
    assert predicted["tflops"] == pytest.approx(flop / seconds / 64 / 1e12, rel=1e-12)
    peak = catalogue.entry("chips", chip)["flops_16bit"]
    assert predicted["mfu"] == pytest.approx(predicted["tflops"] * 1e12 / peak, rel=1e-12)
    assert predicted["gpu_hours"] == pytest.approx(1e12 / tokens * seconds * 64 / 3600, rel=1e-12)
    ratio = predicted["tflops_with_recompute"] / predicted["tflops"]
    assert ratio == pytest.approx(1) if recompute == "none" else 1 < ratio <= 4 / 3


def test_errors_are_relative_and_a_run_counts_once(tmp_path):
    (run,), _ = read(write(tmp_path / "runs.toml", GOOD))
    mfu, seconds = (float(MEASURES[key].of(run.predict(), run)) for key in ("mfu", "seconds"))
    rows = [
        {**GOOD, "name": "one", "published": {"mfu": mfu / 1.1, "seconds": seconds / 0.95}},
        {**GOOD, "name": "two", "published": {"mfu": mfu / 1.6}},
    ]
    made = compare(read(write(tmp_path / "runs.toml", *rows))[0])
    assert [row.error for row in made] == pytest.approx([0.1, -0.05, 0.6], rel=1e-9)
    assert [row.unit for row in made] == ["", "s", ""]
    assert [row.speed for row in made] == pytest.approx([1.1, 1 / 0.95, 1.6], rel=1e-9)  # a shorter step is faster
    assert mean_error(made) == pytest.approx((0.075 + 0.6) / 2, rel=1e-9)


# The constants.


def test_constants_are_keyed_by_generation_only():
    runs, refused = read()
    assert refused == []
    chips = catalogue.table("chips")
    generations = {row.get("constants", row["generation"]) for row in chips.values() if "link_bandwidth" in row}
    assert generations == set(catalogue.table("efficiency")) == {"ampere", "hopper", "tpu"}
    for run in runs:
        with_own = float(run.predict(efficiency(run.chip)).seconds)
        assert float(run.predict().seconds) == with_own
        # Nothing else of a run goes into its prediction: not its name, its source, its numbers or whether it is fitted.
        other = dataclasses.replace(run, name="", source="", note="", fitted=not run.fitted, published={})
        assert float(other.predict().seconds) == with_own


# The command.


def test_all_good(tmp_path, capsys):
    path = write(tmp_path / "runs.toml", GOOD, {**GOOD, "name": "mine", "fitted": True})
    assert main(["validate", path]) == 0
    shown = capsys.readouterr()
    head, first, second, fitted, unfitted = shown.out.splitlines()
    assert head.split() == ["run", "measure", "published", "predicted", "error", "fitted"]
    assert first.split()[:3] == ["good", "mfu", "0.45"] and first.split()[-1].endswith("%")
    assert second.split()[-1] == "yes"
    assert fitted.startswith("mean absolute error, fitted") and "not fitted" in unfitted
    assert shown.err == ""


def test_some_bad(tmp_path, capsys):
    assert main(["validate", write(tmp_path / "runs.toml", changed(("chips",), -1), GOOD)]) == 1
    shown = capsys.readouterr()
    assert shown.err == "refused: bad: run.chips is -1; allowed: a whole number above 0 and at most 1e+15\n"
    assert "good" in shown.out and "bad" not in shown.out


def test_all_bad(tmp_path, capsys):
    assert main(["validate", write(tmp_path / "runs.toml", changed(("chips",), -1))]) == 2
    shown = capsys.readouterr()
    assert "refused: bad" in shown.err and "mean absolute error" not in shown.out


@pytest.mark.parametrize(
    "content, words",
    [
        (None, "No such file"),
        (b"[[run]\n", "is not TOML"),
        (b"", "has no [[run]]; allowed: one or more"),
        (b"[run]\nname = 'one'\n", "has no [[run]]"),
        (b"run = []\n", "has no [[run]]"),
        (b"\xff\xfe", "utf-8"),
    ],
)
def test_files_that_cannot_be_used(tmp_path, capsys, content, words):
    path = tmp_path / "runs.toml"
    if content is not None:
        path.write_bytes(content)
    assert main(["validate", str(path)]) == 2
    shown = capsys.readouterr()
    assert words in shown.err and shown.out == ""


def test_a_list_of_what_is_no_table_is_refused(tmp_path):
    path = tmp_path / "runs.toml"
    path.write_text("run = [1, 2]\n", "utf-8")
    runs, refused = read(path)
    assert runs == [] and [row.name for row in refused] == ["row 1", "row 2"]
    assert refused[0].reason == "run is 1; allowed: a table"


def test_a_command_is_needed(capsys):
    with pytest.raises(SystemExit) as exit_code:
        main([])
    assert exit_code.value.code == 2 and "validate" in capsys.readouterr().err


@pytest.mark.parametrize("key", ["layers", "d_model", "heads", "kv_heads", "head_dim", "d_ff", "vocabulary"])
@pytest.mark.parametrize("value", [1e308, 1e16, 4096.5, float("inf")])
def test_what_is_counted_is_a_whole_number_that_can_be(key, value):
    architecture = {"layers": 32, "d_model": 4096, "heads": 32, "vocabulary": 32000} | {key: value}
    words = rf"architecture.{key} is .*; allowed: a whole number above 0 and at most 1e\+15"
    with pytest.raises(ValueError, match=words):
        published.architecture_of(architecture, 2048.0)


def test_a_name_that_an_earlier_row_has_is_refused(tmp_path):
    whole = files("anatomy.validate").joinpath("runs.toml").read_text("utf-8")
    rows = whole.split("\n[[run]]")[1:3]
    file = tmp_path / "runs.toml"
    file.write_text("".join(f"[[run]]{row}\n" for row in (*rows, rows[0])))
    runs, refused = read(file)
    assert len(runs) == 2 and len(refused) == 1 and refused[0].name == runs[0].name
    assert refused[0].reason == f"run.name is {runs[0].name!r}, as that of row 1; allowed: a name of its own"


@pytest.mark.parametrize("name", ["runs", "further", "serving", "serving_further"])
def test_the_library_s_own_rows_have_names_of_their_own(name):
    runs, _ = read(name)
    assert len({run.name for run in runs}) == len(runs)
