"""The loop of speculation as it runs: the same tokens where it is greedy, the same law where it draws."""

import dataclasses
import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from anatomy.cost.speculation.acceptance import independent_acceptance
from anatomy.cost.speculation.draft_length import best_draft_length
from anatomy.decode import (
    AdaptiveLength,
    DraftModel,
    Lenient,
    PromptLookup,
    ServedModel,
    StagedDraft,
    Threshold,
    chain,
    distribution,
    exact,
    generate,
    make_sampling,
    record,
    speculate,
    wide,
)
from anatomy.decode.sampling.acceptance import distance
from anatomy.decode.speculation import loop
from anatomy.model import Config, forward, init, unstack
from anatomy.model.moe import all_experts
from hypothesis import given
from support import quick

# The dispatch whose answers are the same to the last bit whatever the neighbours are.
CONFIG = Config(vocabulary=16, layers=2, d_model=16, heads=2, head_dim=8, d_ff=16, experts=2, top_k=1, context=64)
SMALL = CONFIG.replace(layers=1, experts=1)
SEND = "all_experts"
LIMIT = 14


OPTIMISED = loop._speculate


@pytest.fixture(autouse=True, scope="module")
def _quick():
    with quick.compiled(loop, "_speculate", static_argnums=0, donate_argnums=1):
        yield


@functools.cache
def weights_of(config, seed=0, larger=3.0):
    return unstack(jax.tree.map(lambda a: larger * a, init(config, jax.random.key(seed))))


def a_model(tree=None, config=SMALL, seed=1):
    return DraftModel(ServedModel(weights_of(config, seed), config, SEND), tree or chain(3))


def itself(tree=None):
    """The target as its own draft."""
    return a_model(tree, CONFIG, 0)


DRAFTS = {
    "model": a_model(),
    "itself": itself(chain(4)),
    "text": PromptLookup(16, chain(3)),
    "tree": a_model(wide((3, 2))),
    "itself, tree": itself(wide((2, 1, 1))),
    "staged": StagedDraft(ServedModel(weights_of(CONFIG, 2), CONFIG, SEND), a_model(chain(2)), chain(4)),
    "staged, itself": StagedDraft(ServedModel(weights_of(CONFIG), CONFIG, SEND), a_model(chain(2)), chain(3)),
    "staged, tree": StagedDraft(ServedModel(weights_of(SMALL, 2), SMALL, SEND), a_model(wide((2, 2))), chain(3)),
}
SLOW = ("text", "itself, tree", "staged", "staged, tree")  # programs correlation are compiled for the others
every_draft = pytest.mark.parametrize(
    "drafter",
    [pytest.param(draft, id=name, marks=[pytest.mark.slow] * (name in SLOW)) for name, draft in DRAFTS.items()],
)


@functools.cache
def prompts(count=12, seed=0):
    random = np.random.default_rng(seed)
    return [random.integers(16, size=n).tolist() for n in random.integers(1, 15, count)]


def spoken(drafter, given=None, limit=LIMIT, sampling=None, **more):
    more = {"chunk": 16, "dispatch": SEND} | more
    return speculate(CONFIG, weights_of(CONFIG), given or prompts(), limit, drafter, sampling, **more)


def sampled(count=12, **more):
    return make_sampling(count, **({"temperature": 0.8, "top_p": 0.95, "seed": np.arange(count)} | more))


# Greedy


@every_draft
def test_greedy_speculation_is_greedy_for_every_prompt_at_equal_shapes(drafter):
    """Bit for bit: passes of the same shape that draft nothing make the same tokens; and so does plain generation."""
    made, none = spoken(drafter), spoken(drafter, length=0)
    assert (none.drafted == 0).all() and (none.steps == LIMIT - 1).all()
    np.testing.assert_array_equal(made.tokens, none.tokens)
    plain = generate(CONFIG, weights_of(CONFIG), prompts(), LIMIT, chunk=16, dispatch=SEND)
    np.testing.assert_array_equal(made.tokens, plain.tokens)


def test_sequences_end_where_they_end_without_speculation():
    end = (3, 5)
    made = spoken(itself(chain(4)), end=end)
    plain = generate(CONFIG, weights_of(CONFIG), prompts(), LIMIT, end=end, chunk=16, dispatch=SEND)
    for name in ("tokens", "count", "ended"):
        np.testing.assert_array_equal(getattr(made, name), getattr(plain, name))
    assert made.ended.any() and not made.ended.all()
    assert made.of(0) == plain.of(0)


# What is counted


@every_draft
def test_a_round_makes_what_it_accepts_and_one_more(drafter):
    made = spoken(drafter, sampling=sampled())
    height = drafter.tree.height
    assert (made.count == LIMIT).all()
    assert (made.accepted <= made.drafted).all()
    last = made.steps + made.accepted - (LIMIT - 1)  # of a tree, the last round may make more than is wanted
    assert ((last >= 0) & (last <= (0 if drafter.tree.is_chain else height))).all()
    assert made.tokens_per_step == (LIMIT - 1) / made.steps.mean()


@pytest.mark.parametrize("name", ["itself", "staged, itself"])
def test_what_drafts_like_the_target_is_always_accepted(name):
    drafter = DRAFTS[name]
    made = spoken(drafter, sampling=sampled())
    np.testing.assert_array_equal(made.accepted, made.drafted)
    assert (made.steps == -(-(LIMIT - 1) // (drafter.tree.height + 1))).all()


@pytest.mark.parametrize(
    "drafter", [DRAFTS["model"], DRAFTS["tree"], DRAFTS["staged"]], ids=["model", "tree", "staged"]
)
def test_a_row_does_not_depend_on_its_neighbours(drafter):
    one = spoken(drafter, prompts(), sampling=sampled())
    other = spoken(drafter, [prompts()[0], *prompts(seed=1)[1:]], sampling=sampled())
    assert one.of(0) == other.of(0)
    assert one.of(1) != other.of(1)
    assert one.steps[0] == other.steps[0]


def test_nor_does_it_where_the_program_is_fully_optimised(monkeypatch):
    monkeypatch.setattr(loop, "_speculate", OPTIMISED)
    test_a_row_does_not_depend_on_its_neighbours(DRAFTS["model"])


@pytest.mark.parametrize("length", [1, 2])
def test_a_draft_is_as_long_as_is_wanted(length):
    made = spoken(itself(chain(4)), sampling=sampled(), length=length)
    assert (made.steps == -(-(LIMIT - 1) // (length + 1))).all()


def test_accepted_drafts_get_longer_and_refused_ones_shorter():
    adaptive = AdaptiveLength(0.05, more=0.02, memory=0.5)
    good, bad = (
        spoken(d, limit=40, sampling=sampled(), adaptive=adaptive) for d in (itself(chain(8)), a_model(chain(8)))
    )
    np.testing.assert_array_equal(good.accepted, good.drafted)
    assert good.steps.max() <= 8  # (40 - 1) / 9, and shorter ones until it was seen
    assert (bad.drafted / bad.steps).mean() < 3


@pytest.mark.slow
def test_an_adapted_draft_is_greedy_too():
    adaptive, drafter = AdaptiveLength(0.05, more=0.02, memory=0.5), a_model(chain(8))
    np.testing.assert_array_equal(spoken(drafter, adaptive=adaptive).tokens, spoken(drafter, length=0).tokens)


@given(st.floats(0.01, 0.99), st.floats(0, 0.5), st.floats(0, 0.2))
def test_the_adapted_length_is_the_best_by_the_cost_model(rate, cost, more):
    found = AdaptiveLength(cost, more=more).length(jnp.array([[rate * 8, 8.0]]), 6)
    assert int(found[0]) == max(
        1,
        int(
            best_draft_length(
                independent_acceptance(acceptance_rate=rate, longest=6),
                draft_cost=cost,
                verify_cost=1 + more * jnp.arange(7),
            )
        ),
    )


# Arguments of other types


def test_numbers_may_be_floats_and_ends_arrays_and_weights_stacked():
    stacked = jax.tree.map(lambda a: 3.0 * a, init(SMALL, jax.random.key(1)))
    drafter, end = DraftModel(ServedModel(stacked, SMALL, SEND), chain(3)), (3, 5)
    made = spoken(drafter, limit=float(LIMIT), chunk=16.0, end=np.array(end))
    np.testing.assert_array_equal(made.tokens, spoken(a_model(), end=end).tokens)
    plain = generate(CONFIG, weights_of(CONFIG), prompts(), float(LIMIT), end=np.array(end), chunk=16.0, dispatch=SEND)
    np.testing.assert_array_equal(made.tokens, plain.tokens)
    staged = [StagedDraft(ServedModel(w, SMALL, SEND), drafter, chain(3)) for w in (stacked, weights_of(SMALL, 1))]
    assert jax.tree.structure(staged[0]) == jax.tree.structure(staged[1])


# The text as a draft


@given(st.lists(st.integers(0, 2), min_size=1, max_size=12), st.integers(1, 3))
def test_the_text_goes_on_as_it_did_after_the_longest_and_newest_match(text, longest):
    drafter = PromptLookup(3, chain(3), longest)
    history = jnp.array([text + [0] * (12 - len(text))])
    full, going = jnp.full(1, 3), jnp.ones(1, bool)
    drafted, _ = drafter.propose((), history, jnp.array([len(text)]), full, going, make_sampling(1), 1)
    wanted = []
    for match in range(min(longest, len(text) - 1), 0, -1):
        places = [i for i in range(len(text) - match) if text[i : i + match] == text[-match:]]
        if places:
            wanted = text[places[-1] + match :][:3]
            break
    assert drafted.token[0][: len(wanted)].tolist() == wanted
    assert drafted.mask[0].tolist() == [i < len(wanted) for i in range(3)]
    np.testing.assert_array_equal(drafted.q[0].argmax(-1), drafted.token[0])


# The law: draws of the real loop against the target's own probabilities

DRAWS = 2**20
TINY = Config(vocabulary=4, layers=1, d_model=8, heads=1, head_dim=8, d_ff=8, experts=2, top_k=1, context=16)
TINY_DRAFT = TINY.replace(experts=1)
TOKENS = 6  # one that reading the prompt gives, and five: two rounds, one of them a draft of two and one more


@functools.cache
def tiny(config, seed):
    return weights_of(config, seed, larger=1.2)


def tiny_model(tree, seed=1):
    return DraftModel(ServedModel(tiny(TINY_DRAFT, seed), TINY_DRAFT, SEND), tree)


class Liar(DraftModel):
    """Says that it drew by the settings of the target, and draws at another temperature."""

    def propose(self, state, history, known, length, going, sampling, stage):
        told, _ = super().propose(state, history, known, length, going, sampling, stage)
        colder = dataclasses.replace(sampling, temperature=sampling.temperature * 0.3)
        drawn, state = super().propose(state, history, known, length, going, colder, stage)
        return drawn._replace(q=told.q), state


jax.tree_util.register_dataclass(Liar, data_fields=["model"], meta_fields=["tree"])


def law(how):
    """Probability of each text that may follow."""
    texts = np.stack(np.meshgrid(*[np.arange(4)] * TOKENS, indexing="ij"), -1).reshape(-1, TOKENS)
    tokens = np.concatenate([np.ones((len(texts), 1), int), texts], axis=1)
    logits = forward(TINY, tiny(TINY, 0), tokens, dispatch=all_experts).logits[:, :-1]
    p = np.asarray(distribution(logits, make_sampling(1, **how)))
    return np.prod(np.take_along_axis(p, texts[..., None], axis=-1)[..., 0], axis=1, dtype=float)


def written(drafter, how, batch, first=0, **more):
    """Texts from seeds from the first on."""
    seeds = make_sampling(batch, **how, seed=np.arange(first, first + batch))
    return speculate(TINY, tiny(TINY, 0), [[1]] * batch, TOKENS, drafter, seeds, chunk=4, dispatch=SEND, **more)


def drawn(drafter, how, draws, batch=2**16, **more):
    """How often each text was generated."""
    count, fewest = np.zeros(4**TOKENS), TOKENS
    for first in range(0, draws, batch):
        made = written(drafter, how, batch, first, **more)
        count += np.bincount(made.tokens @ 4 ** np.arange(TOKENS)[::-1], minlength=4**TOKENS)
        fewest = min(fewest, made.steps.min())
    # Whole drafts were accepted; the text has nothing to copy in its first round.
    assert fewest == -(-(TOKENS - 1) // (drafter.tree.height + 1)) + isinstance(drafter, PromptLookup)
    return count


def chance(count, p):
    """Of counts as unlike p as these, by chi-square; 0 if something came that cannot. Rare texts are one."""
    if count[p == 0].any():
        return 0
    wanted = count.sum() * p / p.sum()
    rare = wanted < 10
    found, wanted = (np.append(a[~rare], a[rare].sum()) for a in (count, wanted))
    return scipy.stats.chisquare(found[wanted > 0], wanted[wanted > 0]).pvalue


LAWS = {
    "chain": (tiny_model(chain(2)), {}),
    "chain, top-k, warm": (tiny_model(chain(2)), {"temperature": 1.4, "top_k": 3}),
    "tree, top-p": (tiny_model(wide((2, 2))), {"top_p": 0.9}),
    "text": (PromptLookup(4, chain(2), 2), {}),
    "staged": (
        StagedDraft(ServedModel(tiny(TINY, 2), TINY, SEND), tiny_model(chain(2)), chain(2)),
        {"temperature": 0.7},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("drafter, how", LAWS.values(), ids=LAWS)
def test_a_million_draws_have_the_law_of_the_target(drafter, how):
    count = drawn(drafter, how, DRAWS // (TOKENS - 1) + 1)
    assert count.sum() * (TOKENS - 1) >= 2**20  # of the loop
    assert chance(count, law(how)) > 1e-3


@pytest.mark.slow
def test_an_adapted_length_leaves_the_law_as_it_is():
    drafter, adaptive = tiny_model(chain(2)), AdaptiveLength(0.2, memory=0.3)
    fixed, other = written(drafter, {}, 2**16), written(drafter, {}, 2**16, adaptive=adaptive)
    assert (fixed.drafted != other.drafted).mean() > 0.1
    assert chance(drawn(drafter, {}, DRAWS // (TOKENS - 1) + 1, adaptive=adaptive), law({})) > 1e-3


def test_the_law_is_seen_to_be_another_where_q_is_not_what_was_drawn_from():
    liar = Liar(ServedModel(tiny(TINY_DRAFT, 1), TINY_DRAFT, SEND), chain(2))
    assert chance(drawn(liar, {}, 2**14, batch=2**14), law({})) < 1e-9
    assert chance(drawn(tiny_model(chain(2)), {}, 2**14, batch=2**14), law({})) > 1e-3


@pytest.mark.parametrize("rule", [Lenient(0.4), Threshold(0.3)], ids=str)
def test_relaxed_rules_draw_from_the_law_that_they_tell_the_distance_of(rule):
    """Of the second token, the first that is drafted: p and q after each first token, weighed by its chance."""
    drafter, draws = tiny_model(chain(1)), 2**15
    count = drawn(drafter, {}, draws, rule=rule, batch=draws).reshape(4, 4, -1).sum(2)
    tokens = np.stack([np.ones(4, int), np.arange(4)], axis=1)
    one = make_sampling(1)
    first = law({}).reshape(4, -1).sum(1)
    p = np.asarray(distribution(forward(TINY, tiny(TINY, 0), tokens, dispatch=all_experts).logits[:, -1], one))
    q = np.asarray(
        distribution(forward(TINY_DRAFT, tiny(TINY_DRAFT, 1), tokens, dispatch=all_experts).logits[:, -1], one)
    )
    wanted = first[:, None] * np.asarray(rule(p, q).output(q))
    assert chance(count.ravel(), wanted.ravel()) > 1e-3
    assert chance(count.ravel(), (first[:, None] * p).ravel()) < 1e-9
    assert float(distance(rule, p, q).total_variation) > 0.02


# The recording


@pytest.mark.parametrize(
    "drafter, temperature",
    [(DRAFTS["model"], 1.0), (DRAFTS["model"], 0.0), (DRAFTS["tree"], 1.0)],
    ids=["chain", "greedy", "tree"],
)
def test_a_recording_is_of_the_speculation_that_runs(drafter, temperature):
    prompt, sampling = prompts()[1], make_sampling(temperature=temperature, seed=5)
    made = spoken(drafter, [prompt], sampling=make_sampling(1, temperature=temperature, seed=5))
    rounds = record(
        CONFIG, weights_of(CONFIG), [*prompt, made.of(0)[0]], drafter, int(made.steps[0]), sampling, dispatch=SEND
    )
    tokens = [token for one in rounds for token in one["tokens"]]
    assert tokens[: LIMIT - 1] == made.of(0)[1:]
    fates = set()
    for number, one in enumerate(rounds):
        assert one["known"] == len(prompt) + 1 + sum(len(r["tokens"]) for r in rounds[:number])
        assert len([n for n in one["drafted"] if n["fate"] == "accepted"]) == len(one["tokens"]) - 1
        assert one["tokens"][-1] == one["last"]["token"]
        for node in one["drafted"]:
            fates.add(node["fate"])
            if node["fate"] != "not reached":
                assert (node["fate"] == "accepted") == (node["at"] < node["accept"])
            if drafter.tree.is_chain:
                np.testing.assert_allclose(node["accept"], min(1, node["p"] / node["q"]), rtol=1e-5)
            for law in (node["target"], node["draft"]):
                assert [p for _, p in law] == sorted([p for _, p in law], reverse=True)
            assert dict(map(tuple, node["draft"])).get(node["token"], node["q"]) == node["q"]
        refused = [n for n in one["drafted"] if n["fate"] == "rejected"]
        assert (one["last"]["kind"] == "resampled") == any(n["depth"] == len(one["tokens"]) for n in refused)
    assert "rejected" in fates


# Logits that are not finite


def poisoned(config, seed=0):
    weights = weights_of(config, seed)
    return dataclasses.replace(weights, unembedding=weights.unembedding.at[0, 0].set(jnp.nan))


@pytest.mark.parametrize(
    "who, rule",
    [
        *(("target", rule) for rule in (exact, Lenient(0.4), Threshold(0.3))),
        *(("draft", rule) for rule in (exact, Lenient(0.4))),  # a threshold does not look at q
    ],
    ids=lambda given: getattr(given, "__name__", str(given)),
)
def test_logits_that_are_not_finite_are_told_whoever_makes_them(who, rule):
    weights = poisoned(CONFIG) if who == "target" else weights_of(CONFIG)
    draft = ServedModel(poisoned(SMALL, 1) if who == "draft" else weights_of(SMALL, 1), SMALL, SEND)
    for heat in (0.0, 0.8):
        settings = sampled(temperature=heat)
        with pytest.raises(FloatingPointError, match="speculate: the logits of sequence"):
            speculate(
                CONFIG, weights, prompts(), LIMIT, DraftModel(draft, chain(3)), settings,
                rule=rule, chunk=16, dispatch=SEND,
            )  # fmt: skip
    with pytest.raises(FloatingPointError, match="record"):
        record(CONFIG, weights, [1, 2], DraftModel(draft, chain(3)), 2, rule=rule, dispatch=SEND)


# Bad input


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda: spoken(a_model(), limit=0), "speculate.limit is 0; allowed: a whole number at least 1"),
        (
            lambda: spoken(a_model(), limit=60),
            r"prompts and limit need 7\d tokens; allowed: at most the context \(64\)",
        ),
        (lambda: spoken(a_model(), [[1], []]), r"speculate.prompts\[1\]"),
        (lambda: spoken(a_model(), [[16]]), r"prompts\[0\]"),
        (lambda: spoken(a_model(), end=(99,)), "speculate.end"),
        (
            lambda: spoken(a_model(), sampling=sampled(3)),
            r"speculate.sampling has .* \(3,\); allowed: \(12,\)",
        ),
        (
            lambda: spoken(a_model(), length=4),
            "speculate.length is 4; allowed: a whole number at least 0 and at most 3",
        ),
        (lambda: spoken(PromptLookup(15)), "speculate.drafter has a vocabulary of 15; allowed: 16"),
        (lambda: spoken(a_model(wide((2,))), adaptive=AdaptiveLength(0.1)), "speculate.adaptive is for chains"),
        (lambda: ServedModel(weights_of(SMALL, 1), SMALL, "by_capacity"), "dispatch"),
        (lambda: DraftModel(ServedModel(weights_of(SMALL, 1), SMALL), wide((17,))), "has 17 children .*vocabulary"),
        (lambda: PromptLookup(16, wide((2,))), "PromptLookup.tree is .*; allowed: a chain"),
        (lambda: PromptLookup(16, longest=0), "PromptLookup.longest is 0; allowed: a whole number at least 1"),
        (
            lambda: StagedDraft(ServedModel(weights_of(SMALL), SMALL), PromptLookup(15)),
            "StagedDraft.drafter has a vocabulary of 15; allowed: 16",
        ),
        (
            lambda: StagedDraft(ServedModel(weights_of(SMALL), SMALL), a_model(), wide((2,))),
            "StagedDraft.tree is .*; allowed: a chain",
        ),
        (lambda: AdaptiveLength(-1.0), "AdaptiveLength.draft is -1"),
        (lambda: AdaptiveLength(0.1, memory=0.0), "AdaptiveLength.memory is 0; allowed: a number above 0"),
        (lambda: record(CONFIG, weights_of(CONFIG), [1], a_model(), 1), "record.prompt has 1 tokens"),
        (lambda: record(CONFIG, weights_of(CONFIG), [1, 2], a_model(), 0), "record.steps is 0"),
        (lambda: record(CONFIG, weights_of(CONFIG), [1, 2], a_model(), 40), "record.prompt has 2 tokens, 40 steps"),
    ],
)
def test_bad_input_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
