"""Pieces of HTML that notebooks show, and the styles and scripts that travel in them."""

import hashlib
import re
from importlib.resources import files

EMBEDDED = re.compile(r'<(style|script) data-asset="([\w./-]+)">.*?</\1>', re.DOTALL)


class Html:
    """A piece of HTML that notebooks show; as text it is what it says."""

    def __init__(self, html: str, text: str) -> None:
        """Keep both forms."""
        self.html, self.text = html, text

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def embedded(asset: str) -> str:
    """A style sheet or script of this library as an element that names where it came from.

    Args:
        asset: path in the library, such as "claims/claims.css". In a script `@VERSION@` stands for a hash of it.
    """
    text = (files("anatomy") / asset).read_text("utf-8")
    tag = "style" if asset.endswith(".css") else "script"
    text = text.replace("@VERSION@", hashlib.sha256(text.encode()).hexdigest()[:8])
    return f'<{tag} data-asset="{asset}">\n{text}</{tag}>'


def refreshed(html: str) -> str:
    """HTML with its embedded styles and scripts as they are now: what was executed before need not run again."""
    return EMBEDDED.sub(lambda match: embedded(match[2]), html)
