"""How fast the small model decodes and serves: beside transformers' Mixtral, the memory, and itself without an engine.

All that is compared takes turns, so that whatever else the machine does falls on all alike, and of each the least
disturbed turn counts.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from anatomy.cost.queueing.simulation import Policy
from anatomy.cost.queueing.traffic import Requests, lognormal_lengths, uniform_lengths
from anatomy.decode import (
    Cache,
    Engine,
    Limits,
    PlainDecoder,
    Request,
    ServedModel,
    extend,
    logits,
    prefill,
    random_requests,
    recorded,
    replay,
)
from anatomy.model import Config, Weights, empty_cache, fuse_experts, init
from anatomy.model.mixtral import save
from jaxtyping import Array, Int
from support.mixtral_peer import Unavailable, peer_python

from benchmarks import peers

# Larger than the caches of a processor, so that decoding reads memory: 52 million parameters, of which 8 are used.
CONFIG = Config(layers=8, d_model=256, heads=4, d_ff=512, context=512)
BATCHES, PROMPT, STEPS = (1, 8, 32), 16, 32
LONG = 256  # tokens of a prompt that is read
ROUNDS = 7
WORDS = 2**25  # of an array that does not fit any cache
SLOTS, READ, MANY = 16, 32, 96  # of the engine that serves mixed lengths


def random_tokens(*shape: int) -> Int[np.ndarray, "..."]:
    return np.random.default_rng(0).integers(CONFIG.vocabulary, size=shape).astype(np.int32)


@partial(jax.jit, donate_argnums=1)
def read(weights: Weights, cache: Cache, tokens: Int[Array, "B S"]) -> tuple[Int[Array, "B"], Cache]:
    """Read prompts at once: the likeliest token after each, and the cache."""
    length = jnp.full(len(tokens), tokens.shape[1], jnp.int32)
    x, cache = prefill(ServedModel(weights, CONFIG), cache, tokens, length, tokens.shape[1])
    return jnp.argmax(logits(ServedModel(weights, CONFIG), x), -1), cache


@partial(jax.jit, donate_argnums=1)
def feed(weights: Weights, cache: Cache, tokens: Int[Array, "B A"]) -> tuple[Int[Array, "A B"], Cache]:
    """Feed tokens one by one: the likeliest token after each, and the cache."""
    model, one = ServedModel(weights, CONFIG), jnp.ones(len(tokens), jnp.int32)

    def step(cache: Cache, token: Int[Array, "B"]) -> tuple[Cache, Int[Array, "B"]]:
        x, cache = extend(model, cache, token[:, None], one)
        return cache, jnp.argmax(logits(model, x[:, 0]), -1)

    cache, best = jax.lax.scan(step, cache, tokens.T)
    return best, cache


def timed(program: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Seconds, and what was made."""
    jax.block_until_ready(given)
    start = time.perf_counter()
    made = jax.block_until_ready(program(*given))
    return time.perf_counter() - start, made


def ours(weights: Weights, tokens: Int[np.ndarray, "B N"], prompt: int) -> dict[str, Any]:
    """Read the prompts, then feed the other tokens; as the peer answers."""
    reading, (first, cache) = timed(read, weights, empty_cache(CONFIG, len(tokens)), tokens[:, :prompt])
    feeding, best = 0.0, np.zeros((0, len(tokens)), int)
    if tokens.shape[1] > prompt:
        feeding, (best, _) = timed(feed, weights, cache, tokens[:, prompt:])
    return {"prefill": reading, "decode": feeding, "best": [first.tolist(), *best.tolist()]}


# One core adds up all, or each core some rows: which of them reads faster depends on the machine.
SUMS = [jax.jit(jnp.sum), jax.jit(lambda array: array.reshape(256, -1).sum(1))]


def bandwidth(array: Array) -> float:
    """Bytes a second that sums of a large array read, by the faster way."""
    return array.nbytes / min(timed(sum_all, array)[0] for sum_all in SUMS * 3)


def bytes_of_step() -> int:
    """Of the weights that a step of one sequence reads."""
    c = CONFIG
    attention = c.d_model * c.head_dim * 2 * (c.heads + c.kv_heads)
    layer = attention + c.d_model * (c.experts + 2) + c.top_k * 3 * c.d_model * c.d_ff
    return 4 * (c.layers * layer + c.d_model * (c.vocabulary + 2))


@contextlib.contextmanager
def transformers(weights: Weights) -> Iterator[tuple[list[Any], Callable[..., Any]]]:
    """Their Mixtral with the same weights: ways to compute it, and a function that asks.

    Raises:
        Unavailable: torch or transformers cannot be installed.
    """
    python = peer_python()
    with tempfile.TemporaryDirectory() as folder:
        save(CONFIG, weights, folder)
        with peers.conversation(python, "mixtral_decode.py") as ask:
            yield ask(weights=folder, threads=os.cpu_count() or 1), ask


def beside_transformers(weights: Weights) -> Iterator[tuple[str, dict[str, Any]]]:
    """Prefill and decoding in turns; the peer in whichever of its ways is fastest."""
    separate, array = fuse_experts(weights), jnp.ones(WORDS, jnp.float32)
    cases = [("prefill", 1, LONG, 0), *(("decode", batch, PROMPT, STEPS) for batch in BATCHES)]
    with contextlib.ExitStack() as stack:
        try:
            ways, ask = stack.enter_context(transformers(weights))
        except Unavailable as error:
            print(f"only the share of the bandwidth: {error}")
            ways, ask = [], None
        for phase, batch, prompt, steps in cases:
            tokens = random_tokens(batch, prompt + steps)
            given = {"tokens": tokens.tolist(), "prompt": prompt}
            trials = {tuple(way): ask(way=way, **given) and ask(way=way, **given)[phase] for way in ways}
            way = min(trials, key=trials.get, default=None)
            ours(separate, tokens, prompt)  # compiles
            mine, theirs, speeds = [], [], []
            for _ in range(ROUNDS):
                mine.append(ours(separate, tokens, prompt))
                if way:
                    theirs.append(ask(way=way, **given))
                if batch == 1:
                    speeds.append(bandwidth(array))
            count = batch * (steps or prompt)
            fastest = min(one[phase] for one in mine)
            name = "prefill" if phase == "prefill" else f"decode_{batch}"
            if theirs:
                quickest = min(one[phase] for one in theirs)
                same = np.array(mine[0]["best"]) == np.array(theirs[0]["best"])
                yield (
                    f"{name}_vs_transformers",
                    {
                        "value": quickest / fastest,
                        "unit": "times the tokens/s",
                        "ours": count / fastest,
                        "peer": count / quickest,
                        "peer_way": " experts, ".join(way) + " attention",
                        "same_tokens": same.mean(),
                    },
                )
            if name == "decode_1":
                made, most = bytes_of_step() * count / fastest, max(speeds)
                share = {"value": made / most, "unit": "of the bandwidth", "ours": made, "peer": most}
                yield "decode_1_share_of_bandwidth", share | {"bytes": bytes_of_step()}


def engine_share(weights: Weights, batch: int = 32, length: int = 64, steps: int = 8) -> dict[str, Any]:
    """Steps of an engine all of whose slots make tokens, beside a closed batch of the same lengths in one program."""
    decoder = PlainDecoder(ServedModel(weights, CONFIG))
    engine = Engine(decoder, Policy(slots=batch, chunk=length), Limits(room=CONFIG.context))
    tokens = random_tokens(batch, length + steps)
    for number, prompt in enumerate(tokens[:, :length]):
        engine.submit(Request(name=str(number), prompt=prompt, limit=CONFIG.context - length))
    while any(a.state != "making" for a in engine.slots if a) or engine.queue:
        engine.step()
    seconds = {"engine": [], "closed": []}
    for _ in range(ROUNDS):
        cache = empty_cache(CONFIG, batch)
        cache = type(cache)(cache.key, cache.value, jnp.full(batch, len(engine.slots[0].made) + length, jnp.int32))
        seconds["closed"].append(timed(feed, engine.decoder.model.weights, cache, tokens[:, length:])[0] / steps)
        start = time.perf_counter()
        for _ in range(steps):
            engine.step()
        seconds["engine"].append((time.perf_counter() - start) / steps)
    engine, closed = (min(seconds[name][1:]) for name in ("engine", "closed"))  # the first compiles
    share = {"value": closed / engine, "unit": "of the steps/s", "ours": 1 / engine, "peer": 1 / closed}
    return share | {"batch": batch}


def continuous_vs_static(weights: Weights, rounds: int = 2) -> dict[str, Any]:
    """Requests a second of the same mixed lengths, all there at once, by policy."""
    keys = jax.random.split(jax.random.key(0), 2)
    traffic = Requests(
        arrival=np.zeros(MANY),
        prompt=uniform_lengths(keys[0], count=MANY, low=4, high=2 * READ),
        output=lognormal_lengths(keys[1], count=MANY, mean=48.0, variation=1.0, longest=256.0),
    )
    requests = random_requests(traffic, CONFIG.vocabulary)
    closed = Policy(slots=SLOTS, chunk=READ, continuous=0, held=1)
    padded = Policy(slots=SLOTS, chunk=READ, continuous=0, held=1, padded=1)
    policies = {"continuous": Policy(slots=SLOTS, chunk=READ), "padded": padded, "unpadded": closed}
    rate, made = {name: [] for name in policies}, {}
    for _ in range(rounds):
        for name, policy in policies.items():
            engine = Engine(PlainDecoder(ServedModel(weights, CONFIG)), policy, Limits(room=CONFIG.context, queue=MANY))
            answers, _ = replay(engine, np.zeros(MANY), requests)
            rate[name].append(float(recorded(answers).requests_per_second))
            made[name] = [a.made for a in answers]
    best = {name: max(rates) for name, rates in rate.items()}
    return {
        "value": best["continuous"] / best["padded"],
        "unit": "times the requests/s",
        "ours": best["continuous"],
        "peer": best["padded"],
        "vs_unpadded": best["continuous"] / best["unpadded"],
        "same_answers": np.mean([a == b for a, b in zip(made["continuous"], made["padded"], strict=True)]),
    }


def measure() -> Iterator[tuple[str, dict[str, Any]]]:
    """Beside transformers and the memory, then the engine."""
    with jax.enable_x64(False):
        weights = init(CONFIG, jax.random.key(0))
        yield from beside_transformers(weights)
        yield "engine_share_of_closed_batch", engine_share(fuse_experts(weights))
        yield "continuous_vs_static", continuous_vs_static(fuse_experts(weights))
