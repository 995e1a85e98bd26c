"""The ledger of claims: what the article says, what is found, and on what the finding rests."""

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, Verdict
from anatomy.claims.ledger.registry import as_records, finding
from anatomy.claims.ledger.show import Html, cite, ledger, listing, show, summary
from anatomy.claims.record.article import SECTIONS, claims, get

__all__ = [
    "SECTIONS",
    "Claim",
    "Evidence",
    "Finding",
    "Html",
    "Verdict",
    "as_records",
    "cite",
    "claims",
    "finding",
    "get",
    "ledger",
    "listing",
    "show",
    "summary",
]
