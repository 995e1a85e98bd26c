"""Speculation that a reader steps through: rounds that were recorded where the page is made, one decision at a time.

Of each decision the page shows the text, what was proposed, and the likeliest tokens of both distributions at that
place. Everything is in the page; without JavaScript a table of all decisions stands in.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from anatomy.site.controls import Live, frame, refuse

FATES = ("accepted", "rejected", "not reached")
WORDS = {"resampled": "drawn from what is left of p", "bonus": "drawn by the target on top"}
DIGITS = 3  # significant, of probabilities


@dataclass(frozen=True)
class Rounds(Live):
    """Recorded rounds that are ready to be shown; made by `rounds`.

    The specification has the text so far, and a list of steps.
    """

    def __repr__(self) -> str:
        """How much there is to see, without markup."""
        return f"Rounds of speculation ({len(self.specification['steps'])} steps)"


def rounds(
    recorded: Sequence[Mapping[str, Any]], written: Callable[[int], str], prompt: str, *, caption: str = ""
) -> Rounds:
    """Step through a recorded speculation: proposed, accepted, rejected, resampled.

    Args:
        recorded: rounds of chains, as `decode.record` writes them down.
        written: a token's text.
        prompt: text before the first round.
        caption: what it shows and what to try.

    Raises:
        ValueError: there are no rounds, one drafts no chain, or a fate is unknown.
    """
    if not recorded:
        refuse("rounds", "recorded", list(recorded), "at least one round")
    steps = []
    text: list[str] = []
    for number, one in enumerate(recorded, 1):
        drafted = one["drafted"]
        if not drafted or [node["parent"] for node in drafted] != list(range(len(drafted))):
            refuse("rounds", "recorded", [node["parent"] for node in drafted], "chains: each node follows the last")
        proposed = [written(node["token"]) for node in drafted]
        begin = {"round": number, "before": "".join(text)}
        first = drafted[0]
        steps.append(
            {
                **begin,
                "what": "proposed",
                "draft": [[token, "proposed"] for token in proposed],
                "say": f"The draft proposes {len(proposed)} tokens, one after the other. The target reads all of them "
                "in one pass, which gives its p at every place. Below, both at the first place.",
                "laws": _laws(first["target"], first["draft"], written, first["token"], first["p"], first["q"]),
            }
        )
        fates: list[str] = []
        for node, token in zip(drafted, proposed, strict=True):
            if node["fate"] not in FATES:
                refuse("rounds", "fate", node["fate"], ", ".join(FATES))
            if node["fate"] == "not reached":
                break
            fates.append(node["fate"])
            marks = [*fates, *["proposed"] * (len(proposed) - len(fates))]
            if node["fate"] == "rejected":
                marks[len(fates) :] = ["dropped"] * (len(proposed) - len(fates))
            steps.append(
                {
                    **begin,
                    "what": node["fate"],
                    "draft": [list(each) for each in zip(proposed, marks, strict=True)],
                    "say": _judged(token, node),
                    "laws": _laws(node["target"], node["draft"], written, node["token"], node["p"], node["q"]),
                }
            )
        last, token = one["last"], written(one["last"]["token"])
        kept = [[text, "accepted"] for text, fate in zip(proposed, fates, strict=False) if fate == "accepted"]
        steps.append(
            {
                **begin,
                "what": last["kind"],
                "draft": [*kept, [token, last["kind"]]],
                "say": _drawn(token, last, len(one["tokens"])),
                "laws": _laws(last["target"], last["from"], written, last["token"], None, last["probability"]),
            }
        )
        text += [written(token) for token in one["tokens"]]
    specification = {"name": "speculation", "prompt": prompt, "steps": steps}

    def inside(key: str) -> list[str]:
        return [
            '<div class="player" hidden>',
            f'<p class="text"><span class="known">{escape(prompt)}</span><span class="draft"></span></p>',
            f'<div class="input walk"><label for="{key}-walk">Step</label><output for="{key}-walk" aria-live="off">'
            f'</output><input type="range" id="{key}-walk" data-walk min="0" max="{len(steps) - 1}" step="1" value="0" '
            'autocomplete="off"></div>',
            '<div class="buttons"><button type="button" data-go="-1">Back</button><button type="button" data-go="1">'
            'Next</button><button type="button" data-play aria-pressed="false">Play</button></div>',
            f'<p class="say" aria-live="polite">{escape(str(steps[0]["say"]))}</p>',
            '<div class="laws"></div>',
            "</div>",
            _table(recorded, written, prompt),
        ]

    html = frame("rounds", "Speculation, step by step", specification, caption, inside, ["rounds.js"], ["rounds.css"])
    return Rounds(specification, caption, html)


def shown(token: str) -> str:
    """A token's text with what cannot be seen made visible."""
    return token.replace(" ", "\u2423").replace("\n", "\u21b5").replace("\t", "\u21e5") or "\u2205"


def share(value: float) -> str:
    """A probability, short."""
    return f"{value:.{DIGITS}f}" if value >= 0.001 or value == 0 else "<0.001"


def _judged(token: str, node: Mapping[str, Any]) -> str:
    """Why a proposed token was accepted or rejected."""
    compared = "below" if node["at"] < node["accept"] else "not below"
    end = "accepted" if node["fate"] == "accepted" else "rejected, and what follows it is dropped"
    said = (
        f"\u201c{shown(token)}\u201d: the target gives it p = {share(node['p'])}, the draft drew it with q = "
        f"{share(node['q'])}. It is kept with the chance min(1, p/q) = {share(node['accept'])}. The random number is "
        f"{node['at']:.3f}, {compared} that: {end}."
    )
    return said.replace("= <", "< ")


def _drawn(token: str, last: Mapping[str, Any], made: int) -> str:
    """Where the last token of a round came from."""
    source = (
        "In its place the target draws from what p has more than q there"
        if last["kind"] == "resampled"
        else "All were kept, so the target adds one of its own from the same pass"
    )
    tokens = "1 token" if made == 1 else f"{made} tokens"
    return f"{source}: \u201c{shown(token)}\u201d. The round has made {tokens} in one pass of the target."


def _laws(
    target: Sequence[Sequence[float]],
    other: Sequence[Sequence[float]],
    written: Callable[[int], str],
    token: int,
    p: float | None,
    q: float,
) -> list[list[Any]]:
    """Rows of token, its share in the target's law and in the other one, and whether it is the one in question.

    A share that is not among the likeliest is None, which the page shows as a dash.
    """
    one, two = ({int(t): round(float(v), 4) for t, v in law} for law in (target, other))
    one |= {} if p is None else {token: round(p, 4)}
    two[token] = round(q, 4)
    order = sorted({*one, *two}, key=lambda t: (-max(one.get(t, 0), two.get(t, 0)), t))
    return [[shown(written(t)), one.get(t), two.get(t), t == token] for t in order]


def _table(recorded: Sequence[Mapping[str, Any]], written: Callable[[int], str], prompt: str) -> str:
    """All decisions, for pages on which no script runs; a script that runs hides it."""
    body = ""
    for number, one in enumerate(recorded, 1):
        rows = [
            (shown(written(n["token"])), share(n["p"]), share(n["q"]), share(n["accept"]), f"{n['at']:.3f}", n["fate"])
            for n in one["drafted"]
        ]
        last = one["last"]
        rows.append((shown(written(last["token"])), "", "", "", "", WORDS[last["kind"]]))
        cells = ("".join(f"<td>{escape(cell)}</td>" for cell in (f"{number}", *row)) for row in rows)
        body += "".join(f"<tr>{row}</tr>" for row in cells)
    names = ("Round", "Token", "p", "q", "Chance", "Number", "What became of it")
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<div class="without-script"><table><caption>After {escape(prompt)!s}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
