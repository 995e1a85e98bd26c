"""What caches of both kinds have in common: rows whose length says which tokens count."""

from jaxtyping import Array, Int

from anatomy.decode.cache.pages import Pages
from anatomy.model import Config, Rows

Cache = Rows | Pages


def moved(cache: Cache, source: Int[Array, "B S"], target: Int[Array, "B S"]) -> Cache:
    """A cache in which what lay at some places lies at others; lengths stay. A place beyond N is nowhere."""
    for layer in range(len(cache.key)):
        cache = cache.written(layer, None, target, *cache.at(layer, source))
    return cache


def bytes_per_token(config: Config) -> int:
    """Bytes of a token's keys and values in all layers: 2 L K C of 4 bytes."""
    return 2 * config.layers * config.kv_heads * config.head_dim * 4
