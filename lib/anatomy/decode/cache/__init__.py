"""Keys and values of the tokens seen so far: rows of fixed length (`model.Rows`), or pages of a common pool."""

from anatomy.decode.cache.pages import OutOfPages, Pages, Pool, empty_pages
from anatomy.decode.cache.reading import View, attend_to_cache, through_cache
from anatomy.decode.cache.rows import Cache, bytes_per_token, moved

__all__ = [
    "Cache",
    "OutOfPages",
    "Pages",
    "Pool",
    "View",
    "attend_to_cache",
    "bytes_per_token",
    "empty_pages",
    "moved",
    "through_cache",
]
