"""What was computed is kept: files written whole, and answers under a hash of the code and data that they rest on."""

from anatomy.memo.closure import Closure, closure, code_digest
from anatomy.memo.files import cache_directory, read_or_compute, write_atomically
from anatomy.memo.results import remembered

__all__ = [
    "Closure",
    "cache_directory",
    "closure",
    "code_digest",
    "read_or_compute",
    "remembered",
    "write_atomically",
]
