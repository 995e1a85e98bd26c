"""Checks against the mixtures of experts that were published, before the article and since."""

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Finding, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.article import printed
from anatomy.claims.record.public import record
from anatomy.specs import architecture, catalogue
from anatomy.specs.units import readable

WRITTEN = "2023-07"  # the article
MANY = (64, 128)  # experts that the article sets against its own


def mixtures() -> list[dict]:
    """Published mixtures of experts, by date; those of the catalogue with its counts."""
    rows = []
    for key, row in record("mixtures")["models"].items():
        if key in catalogue.table("architectures"):
            model = architecture(key)
            counted = {
                "name": model.name,
                "experts": int(model.experts),
                "top_k": int(model.top_k),
                "total": model.parameters.total,
                "active": model.parameters.active,
            }
            row = counted | row
        rows.append(row | {"key": key})
    return sorted(rows, key=lambda row: row["published"])


@check("moe.research_only")
def research_only(claim: Claim) -> Finding:
    """Models with that many experts which users got, before and after the article."""
    many = [row for row in mixtures() if row["experts"] >= claim_experts()]
    papers = [row for row in many if row["published"] <= WRITTEN]
    early = [row for row in papers if row["offered"]]
    later = [row for row in many if row["published"] > WRITTEN and row["offered"]]
    own = [row["name"] for row in later if row["source"].startswith("openai")]
    small = architecture("deepseek_v3").expert_parameters
    return uncheckable(
        claim,
        f"A fair word in July 2023: of the {len(papers)} mixtures of 64 or more experts that the book lists from "
        f"before, {len(early) or 'none'} had been offered to users. Since then {len(later)} have "
        f"been{', ' + own[0] + ' by OpenAI among them' if own else ''}. Many experts came with small ones: "
        f"DeepSeek-V3's have {readable(small, 'parameters')}, the article's {readable(printed('arch.expert_params'))}.",
        beside=(float(len(later)), "models"),
        sources=tuple(dict.fromkeys(row["source"] for row in (*papers, *later))),
    )


def claim_experts() -> float:
    """The lower end of the range that the article prints."""
    return printed("moe.64_128")
