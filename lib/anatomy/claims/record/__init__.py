"""What is on record: the claims of the article (`claims.toml`), and facts from outside it (`record.toml`)."""

from anatomy.claims.record.article import SECTIONS, claims, ends, get, printed
from anatomy.claims.record.public import record

__all__ = ["SECTIONS", "claims", "ends", "get", "printed", "record"]
