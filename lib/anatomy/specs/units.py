"""Numbers as a reader wants them: SI prefixes for physical units, M, B and T or words for counts."""

import math
import re
from decimal import ROUND_HALF_UP, Context, Decimal
from typing import SupportsFloat

import numpy as np

HOUR, DAY, YEAR = 3600.0, 86_400.0, 365.25 * 86_400.0  # seconds
COUNTS = ("", "k", "M", "B", "T")  # of parameters, tokens, dollars
WORDS = ("", "", "million", "billion", "trillion")
SI = ("", "k", "M", "G", "T", "P", "E", "Z")
SI_UNITS = ("FLOP", "B", "bit", "W", "Wh", "J", "Hz")
SMALL = ("", "m", "µ", "n", "p")  # of seconds; long times are written out
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def readable(value: SupportsFloat, unit: str = "", digits: int = 3) -> str:
    """A number for prose: "1.83 trillion parameters", "560 GFLOP", "$63 million", "7,324 sequences".

    Args:
        value: in SI units.
        unit: SI unit or thing counted, as in `quantity`; "dollars" put the sign in front.
        digits: significant digits; counts below a million keep all of theirs.
    """
    return quantity(value, unit.replace("dollars", "$", 1), digits, trim=True, words=True)


def quantity(value: SupportsFloat, unit: str = "", digits: int = 3, trim: bool = False, words: bool = False) -> str:
    """A number for a reader, as "1.83 T parameters", "277 GB", "$63.0 M" or "2.15 × 10²⁵ FLOP".

    The same rule stands in `site/interactive/static/calculator.js`, and a test holds the two together.

    Args:
        value: in the base unit: bytes, FLOP, dollars, a share of 1 for "%"; or true or false.
        unit: "bytes", "B", "FLOP", "W", ... and what follows, as in "FLOP/s", take SI prefixes; "$" stands
            in front; "%" shows a share; "s" is in ms, µs and ns when short; everything else is counted.
        digits: significant digits; whole numbers are not rounded below 10,000 (1,000 with SI prefixes).
        trim: leave out zeros at the end of decimals.
        words: "million" for M, and no k: for prose.
    """
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    text, prefix, unit, tail = _parts(float(value), unit, digits, trim, WORDS if words else COUNTS)
    sign, text = ("−", text[1:]) if text[0] == "−" else ("", text)
    if unit == "$":
        return f"{sign}${text}{prefix and ' ' + prefix}{tail}"
    joined = f"{prefix}{unit}" if unit in (*SI_UNITS, "s") else f"{prefix} {unit}".strip()
    return f"{sign}{text} {joined}{tail}".strip() if joined else f"{sign}{text}{tail}"


def _parts(value: float, unit: str, digits: int, trim: bool, counts: tuple[str, ...]) -> tuple[str, str, str, str]:
    """The number, its prefix, the unit that takes it, and what follows."""
    unit, tail = re.findall(r"^([^/ ]*)(.*)$", unit)[0]
    unit = "B" if unit == "bytes" else unit
    if math.isnan(value):
        return "–", "", unit, tail
    sign, value = "−" if value < 0 else "", abs(value) * 100 if unit == "%" else abs(value)
    if value in (0, math.inf):
        return (sign + "∞" if value else "0"), "", unit, tail
    full = 6 if counts is WORDS else max(4, digits)
    prefixes, plain = (SI, 3) if unit in SI_UNITS else (counts, full)
    if unit == "s":
        prefixes, plain = ("",), 6
    whole = Decimal(value).adjusted() + 1  # figures before the point
    if digits < whole <= plain:  # a whole number keeps all of them
        figures, exponent = _significant(value, whole)
        if exponent < plain:
            return sign + _place(figures, exponent, trim), "", unit, tail
    figures, exponent = _significant(value, digits)
    step = exponent // 3
    if unit == "s" and -len(SMALL) < step < 0:
        return sign + _place(figures, exponent - 3 * step, trim), SMALL[-step], unit, tail
    if -4 < exponent < plain:
        return sign + _place(figures, exponent, trim), "", unit, tail
    if 0 < step < len(prefixes):
        return sign + _place(figures, exponent - 3 * step, trim), prefixes[step], unit, tail
    power = str(exponent).translate(SUPERSCRIPTS)
    return f"{sign}{_place(figures, 0, trim)} × 10{power}", "", unit, tail


def _significant(value: float, digits: int) -> tuple[str, int]:
    """The figures and the decimal exponent of a positive number; halves go up, as in JavaScript."""
    rounded = Context(prec=digits, rounding=ROUND_HALF_UP).create_decimal(Decimal(value))
    return "".join(map(str, rounded.as_tuple().digits)).ljust(digits, "0")[:digits], rounded.adjusted()


def _place(figures: str, exponent: int, trim: bool) -> str:
    """Figures with their decimal point, thousands separated."""
    figures = figures.rjust(len(figures) - exponent, "0") if exponent < 0 else figures.ljust(exponent + 1, "0")
    cut = max(exponent, 0) + 1
    whole, decimals = f"{int(figures[:cut]):,}", figures[cut:]
    decimals = decimals.rstrip("0") if trim else decimals
    return f"{whole}.{decimals}" if decimals else whole
