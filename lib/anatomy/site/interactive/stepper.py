"""Speculation that a reader steps through: steps that were recorded where the page is made, one decision at a time.

Of each decision the page shows the text, what was proposed, and the likeliest tokens of both distributions at that
place. Everything is in the page; without JavaScript a table of all decisions stands in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from anatomy.site.interactive.controls import Live, frame, refuse

FATES = ("accepted", "rejected", "not reached")
WORDS = {"resampled": "drawn from the residual distribution", "bonus": "drawn by the target on top"}
DIGITS = 3  # significant, of probabilities


@dataclass(frozen=True)
class Stepper(Live):
    """Recorded speculation that is ready to be shown; made by `stepper`.

    The specification has the prompt, and a list of decisions.
    """

    def __repr__(self) -> str:
        """How much there is to see, without markup."""
        return f"Stepper through speculation ({len(self.specification['decisions'])} decisions)"


def stepper(
    recorded: Sequence[Mapping[str, Any]], text_of: Callable[[int], str], prompt: str, *, caption: str = ""
) -> Stepper:
    """Step through a recorded speculation: proposed, accepted, rejected, resampled.

    Args:
        recorded: speculation steps of chains, as `decode.record` writes them down.
        text_of: a token's text.
        prompt: text before the first step.
        caption: what it shows and what to try.

    Raises:
        ValueError: there are no steps, one drafts no chain, or a fate is unknown.
    """
    if not recorded:
        refuse("stepper", "recorded", list(recorded), "at least one step")
    decisions: list[dict[str, Any]] = []
    text: list[str] = []
    for number, one in enumerate(recorded, 1):
        drafted = one["drafted"]
        if not drafted or [node["parent"] for node in drafted] != list(range(len(drafted))):
            refuse("stepper", "recorded", [node["parent"] for node in drafted], "chains: each node follows the last")
        proposed = [text_of(node["token"]) for node in drafted]
        begin = {"step": number, "before": "".join(text)}
        first = drafted[0]
        decisions.append(
            {
                **begin,
                "what": "proposed",
                "draft": [[token, "proposed"] for token in proposed],
                "say": f"The draft proposes {len(proposed)} tokens, one after the other. The target reads all of them "
                "in one pass, which gives its p at every place. Below, both at the first place.",
                "distributions": _distributions(
                    first["target"], first["draft"], text_of, first["token"], first["p"], first["q"]
                ),
            }
        )
        fates: list[str] = []
        for node, token in zip(drafted, proposed, strict=True):
            if node["fate"] not in FATES:
                refuse("stepper", "fate", node["fate"], ", ".join(FATES))
            if node["fate"] == "not reached":
                break
            fates.append(node["fate"])
            marks = [*fates, *["proposed"] * (len(proposed) - len(fates))]
            if node["fate"] == "rejected":
                marks[len(fates) :] = ["dropped"] * (len(proposed) - len(fates))
            decisions.append(
                {
                    **begin,
                    "what": node["fate"],
                    "draft": [list(each) for each in zip(proposed, marks, strict=True)],
                    "say": _judged(token, node),
                    "distributions": _distributions(
                        node["target"], node["draft"], text_of, node["token"], node["p"], node["q"]
                    ),
                }
            )
        last, token = one["last"], text_of(one["last"]["token"])
        accepted = [[text, "accepted"] for text, fate in zip(proposed, fates, strict=False) if fate == "accepted"]
        decisions.append(
            {
                **begin,
                "what": last["kind"],
                "draft": [*accepted, [token, last["kind"]]],
                "say": _drawn(token, last, len(one["tokens"])),
                "distributions": _distributions(
                    last["target"], last["from"], text_of, last["token"], None, last["probability"]
                ),
            }
        )
        text += [text_of(token) for token in one["tokens"]]
    specification = {"name": "speculation", "prompt": prompt, "decisions": decisions}

    def inside(key: str) -> list[str]:
        return [
            '<div class="player" hidden>',
            f'<p class="text"><span class="known">{escape(prompt)}</span><span class="draft"></span></p>',
            f'<div class="input walk"><label for="{key}-walk">Decision</label><output for="{key}-walk" aria-live="off">'
            f'</output><input type="range" id="{key}-walk" data-walk min="0" max="{len(decisions) - 1}" step="1" '
            'value="0" autocomplete="off"></div>',
            '<div class="buttons"><button type="button" data-go="-1">Back</button><button type="button" data-go="1">'
            'Next</button><button type="button" data-play aria-pressed="false">Play</button></div>',
            f'<p class="say" aria-live="polite">{escape(str(decisions[0]["say"]))}</p>',
            '<div class="distributions"></div>',
            "</div>",
            _table(recorded, text_of, prompt),
        ]

    html = frame(
        "stepper", "Speculation, step by step", specification, caption, inside, ["stepper.js"], ["stepper.css"]
    )
    return Stepper(specification, caption, html)


def shown(token: str) -> str:
    """A token's text with what cannot be seen made visible."""
    return token.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u21e5") or "\u2205"


def probability(value: float) -> str:
    """A probability, short."""
    return f"{value:.{DIGITS}f}" if value >= 0.001 or value == 0 else "<0.001"


def _judged(token: str, node: Mapping[str, Any]) -> str:
    """Why a proposed token was accepted or rejected."""
    compared = "below" if node["at"] < node["accept"] else "not below"
    end = "accepted" if node["fate"] == "accepted" else "rejected, and what follows it is dropped"
    said = (
        f"\u201c{shown(token)}\u201d: the target gives it p = {probability(node['p'])}, the draft drew it with "
        f"q = {probability(node['q'])}. It is accepted with probability min(1, p/q) = {probability(node['accept'])}. "
        f"The random number is {node['at']:.3f}, {compared} that: {end}."
    )
    return said.replace("= <", "< ")


def _drawn(token: str, last: Mapping[str, Any], made: int) -> str:
    """Where the last token of a step came from."""
    source = (
        "In its place the target samples from the residual distribution, what p has above q there"
        if last["kind"] == "resampled"
        else "All were accepted, so the target adds one of its own from the same pass"
    )
    tokens = "1 token" if made == 1 else f"{made} tokens"
    return f"{source}: \u201c{shown(token)}\u201d. The step yields {tokens} for one pass of the target."


def _distributions(
    target: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    text_of: Callable[[int], str],
    token: int,
    p: float | None,
    q: float,
) -> list[list[Any]]:
    """Rows of a token, its probability by the target and by the other distribution, and whether it is the one judged.

    A probability that is not among the likeliest is None, which the page shows as a dash.
    """
    one, two = ({int(t): round(float(v), 4) for t, v in pairs} for pairs in (target, other))
    one |= {} if p is None else {token: round(p, 4)}
    two[token] = round(q, 4)
    order = sorted({*one, *two}, key=lambda t: (-max(one.get(t, 0), two.get(t, 0)), t))
    return [[shown(text_of(t)), one.get(t), two.get(t), t == token] for t in order]


def _table(recorded: Sequence[Mapping[str, Any]], text_of: Callable[[int], str], prompt: str) -> str:
    """All decisions, for pages on which no script runs; a script that runs hides it."""
    body = ""
    for number, one in enumerate(recorded, 1):
        rows = [
            (
                shown(text_of(n["token"])),
                probability(n["p"]),
                probability(n["q"]),
                probability(n["accept"]),
                f"{n['at']:.3f}",
                n["fate"],
            )
            for n in one["drafted"]
        ]
        last = one["last"]
        rows.append((shown(text_of(last["token"])), "", "", "", "", WORDS[last["kind"]]))
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in (f"{number}", *row)) for row in rows)
        body += "".join(f"<tr>{row}</tr>" for row in cells)
    names = ("Step", "Token", "p", "q", "Accepted with", "Random number", "What became of it")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<div class="without-script"><table><caption>After {escape(prompt)!s}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
