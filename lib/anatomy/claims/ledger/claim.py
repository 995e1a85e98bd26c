"""What a claim is, and what its verdict turns on."""

import dataclasses
from collections.abc import Mapping
from typing import Any

Term = float | str | tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Terms:
    """What the verdict on a claim turns on besides the claim's own number: declared beside the claim, and shown.

    A check reads each term by its name, as `claim.verdict["least_share"]`, so that no threshold, tolerance or name
    stands in code, and the words of the claim decide nothing.

    Attributes:
        claim: id of the claim.
        terms: numbers (thresholds and tolerances) and names, each by a name of its own.
        reason: why these.
    """

    claim: str
    terms: Mapping[str, Term] = dataclasses.field(default_factory=dict, hash=False)
    reason: str = ""

    @classmethod
    def of(cls, claim: str, table: Mapping[str, Any]) -> "Terms":
        """Terms from a table of `claims.toml`.

        Raises:
            ValueError: a term is neither a number nor one or several names, or there is no reason for them.
        """
        terms: dict[str, Term] = {}
        for name, value in table.items():
            if isinstance(value, list) and value and all(isinstance(each, str) for each in value):
                terms[name] = tuple(value)
            elif isinstance(value, (int, float, str)) and not isinstance(value, bool):
                terms[name] = value
            else:
                raise ValueError(f"claim {claim}.verdict.{name} is {value!r}; allowed: a number, a name, or names")
        reason = terms.pop("reason", "")
        if terms and not (isinstance(reason, str) and reason):
            raise ValueError(f"claim {claim}.verdict.reason is {reason!r}; allowed: a sentence that says why")
        return cls(claim, terms, str(reason))

    def __getitem__(self, name: str) -> Any:
        """A term by its name.

        Raises:
            KeyError: it is not declared; the message says where to.
        """
        if name not in self.terms:
            raise KeyError(
                f"claim {self.claim}.verdict has no {name!r}; declared: {', '.join(self.terms) or 'nothing'}. "
                f"Declare it in claims.toml, in [claim.verdict] below the claim."
            )
        return self.terms[name]


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim, in our words.

    Attributes:
        id: permanent, part of its address.
        section: section of the article, a key of `SECTIONS`.
        claim: what is claimed.
        kind: given, derivable, structural, comparison, opinion or prediction.
        value: the number that is printed, if any, in `unit`.
        unit: SI unit or thing counted.
        range: both ends, where a range is printed; `value` is then its middle or larger end.
        implied: the article does not say it, its numbers do.
        original: what the English original says, where the retelling matters.
        translation: the retelling says something else than the original.
        note: what a reader should know.
        verdict: what the verdict turns on besides `value`.
    """

    id: str
    section: str
    claim: str
    kind: str
    value: float | None = None
    unit: str = ""
    range: tuple[float, ...] = ()
    implied: bool = False
    original: str = ""
    translation: bool = False
    note: str = ""
    verdict: Terms = dataclasses.field(default=Terms(""), hash=False)
