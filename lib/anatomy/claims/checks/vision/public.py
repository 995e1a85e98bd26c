"""Checks of vision against what OpenAI and others have published since."""

from anatomy.claims.ledger.claim import Claim
from anatomy.claims.ledger.finding import Evidence, Finding, decide, uncheckable
from anatomy.claims.ledger.registry import check
from anatomy.claims.record.public import record


@check("vis.least")
def least(claim: Claim) -> Finding:
    """OpenAI's own figures, beside the best of others."""
    published = record("gpt4_vision_benchmarks")
    ahead = [name for name, value in published["gpt4"].items() if value > published["best_other"][name]]
    return uncheckable(
        claim,
        "A judgement. On OpenAI's own figures of March 2023 GPT-4 is ahead of the best published model in "
        f"{len(ahead)} of {len(published['gpt4'])} benchmarks of images, without having been trained for them: "
        f"{', '.join(ahead)}.",
        beside=(float(len(ahead)), f"of {len(published['gpt4'])} benchmarks"),
        sources=(published["source"],),
    )


@check("vis.no_commercial")
def no_commercial(claim: Claim) -> Finding:
    """What was on offer by then."""
    card = record("gpt4v_card")
    return uncheckable(
        claim,
        "It depends on what counts as commercial. OpenAI's card says that GPT-4 with vision was in the hands of early "
        f"users since {card['early_access']}; it was offered to all paying users in autumn 2023, after the article.",
        sources=(card["source"],),
    )


@check("vis.scratch")
def scratch(claim: Claim) -> Finding:
    """What OpenAI says of the order."""
    card = record("gpt4v_card")
    return uncheckable(
        claim,
        "What OpenAI wanted is not on record. Its card says that GPT-4 with vision was trained as GPT-4 was, on "
        f"{' and '.join(card['training'])} data, and says nothing of an order.",
        sources=(card["source"],),
    )


@check("vis.gpt5")
def gpt5(claim: Claim) -> Finding:
    """Not published either."""
    return uncheckable(
        claim,
        "OpenAI has not said how GPT-5 was trained. GPT-4o of May 2024 was, it says, one model trained end to end on "
        "text, images and sound.",
        sources=(record("gpt4o")["source"],),
    )


@check("vis.gpt5_gen")
def gpt5_generates(claim: Claim) -> Finding:
    """What models of OpenAI's put out."""
    five, omni = record("gpt5"), record("gpt4o")
    wanted = set(claim.verdict["outputs"])
    return decide(
        claim,
        wanted <= set(five["outputs"]),
        f"GPT-5 takes {' and '.join(five['inputs'])} and gives out {' and '.join(five['outputs'])}, as OpenAI's "
        "catalogue says; images and sound come from models beside it. The one that puts out "
        f"{', '.join(omni['outputs'][:-1])} and {omni['outputs'][-1]} was GPT-4o, a year before it.",
        in_part=bool(wanted & set(five["outputs"])),
        evidence=Evidence.PUBLIC_RECORD,
        sources=[five["source"], omni["source"]],
    )


@check("vis.agents")
def agents(claim: Claim) -> Finding:
    """A purpose is not computed; what it was best at is on record."""
    published = record("gpt4_vision_benchmarks")
    lead = {name: value - published["best_other"][name] for name, value in published["gpt4"].items()}
    first, second, third = sorted(lead, key=lead.get, reverse=True)[:3]
    return uncheckable(
        claim,
        f"What it was meant for is not on record. It would serve: GPT-4's lead over others was largest in {first} "
        f"({lead[first]:+.0f} points), {second} ({lead[second]:+.0f}) and {third} ({lead[third]:+.0f}): they ask for "
        "text in diagrams, charts and graphics.",
        beside=(lead[first], "points ahead"),
        sources=(published["source"],),
    )


@check("vis.every_mm")
def every_model(claim: Claim) -> Finding:
    """What came."""
    return uncheckable(
        claim,
        "A prediction, and for images a good one: the large families that followed, Gemini, Claude 3, GPT-4o and Llama "
        "4, read images. Sound is less common.",
        sources=("gemini2023", "anthropic2024claude3", record("gpt4o")["source"], "meta2025llama4"),
    )


@check("vis.evolve")
def evolve(claim: Claim) -> Finding:
    """What came."""
    return uncheckable(
        claim,
        "A prediction. Input did move beyond text; what reads it is still a dense transformer or a mixture of experts "
        "in most models that were published since.",
        sources=(record("gpt4o")["source"], record("chameleon")["source"], "meta2025llama4"),
    )


@check("meta.source")
def source(claim: Claim) -> Finding:
    """The address under which the original stands."""
    published = record("article")
    return decide(
        claim,
        published["address"] == claim.verdict["address"],
        f"The original stands at {published['address']}, by {' and '.join(published['authors'])} of "
        f"{published['publisher']}. Most of it is for subscribers only.",
        evidence=Evidence.PUBLIC_RECORD,
        sources=[published["source"]],
    )
