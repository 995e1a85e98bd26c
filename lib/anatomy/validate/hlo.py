"""What a compiled program does, counted in the text of its HLO.

XLA's own cost analysis counts the body of a loop once and every branch of a conditional. Here each instruction counts
as often as it runs: a loop's body by its trip count, a branch by its share of the visits. The shares cannot be read
from the text, so the caller gives them.

Bytes of a collective are those of the whole, on one device: the result of an all-gather, and what goes into any
other. That is B of `cost.collectives`. Collectives among groups of one device move nothing and are left out.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import NamedTuple

KINDS = ("all-reduce", "reduce-scatter", "all-gather", "all-to-all", "collective-permute")
BITS = {"pred": 8, "bf16": 16, "s4": 4, "u4": 4}  # others have their number of bits at the end of their name

COMPUTATION = re.compile(r"^(?:ENTRY )?%?(?P<name>[\w.\-]+) \(.*\) -> .* \{$")
INSTRUCTION = re.compile(
    r"^\s+(?:ROOT )?%?(?P<name>[\w.\-]+) = (?P<shape>.*?) (?P<opcode>[a-z][\w\-]*)\((?P<operands>.*?)\)(?P<rest>.*)$"
)
ARRAY = re.compile(r"(?P<type>[a-z]+\d*(?:e\dm\d\w*)?)\[(?P<sizes>[\d,]*)\]")
CALLED = re.compile(r"\b(?:calls|to_apply|body)=%?([\w.\-]+)")
BRANCHES = re.compile(r"\bbranch_computations=\{([^}]*)\}")
TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


class Instruction(NamedTuple):
    """One line of a computation."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    rest: str  # its attributes


Program = dict[str, dict[str, Instruction]]  # computations by name; the entry is `""`


class Collective(NamedTuple):
    """Collectives of one kind among the same devices."""

    kind: str
    group: tuple[int, ...]  # devices of the group that device 0 is in, by number


def parse(text: str) -> Program:
    """Computations and their instructions, from the text of a compiled module.

    Raises:
        ValueError: there is no entry computation.
    """
    program: Program = {}
    current: dict[str, Instruction] = {}
    for line in text.splitlines():
        if found := COMPUTATION.match(line):
            current = program["" if line.startswith("ENTRY") else found["name"]] = {}
        elif found := INSTRUCTION.match(line):
            operands = tuple(re.findall(r"%([\w.\-]+)", found["operands"]))
            name = found["name"]
            current[name] = Instruction(name, found["shape"], found["opcode"], operands, found["rest"])
    if "" not in program:
        raise ValueError(f"text is {text[:40]!r}; allowed: a compiled HLO module, which has an ENTRY computation")
    return program


def size(shape: str) -> int:
    """Bytes of an array, or of all arrays of a tuple."""
    total = 0
    for found in ARRAY.finditer(shape):
        bits = BITS.get(found["type"]) or int(_match(r"\d+", found["type"])[0])
        total += math.ceil(math.prod(_numbers(found["sizes"])) * bits / 8)
    return total


def _match(pattern: str | re.Pattern[str], text: str) -> re.Match[str]:
    """The first place where a text has a pattern.

    Raises:
        ValueError: it has none.
    """
    if (found := re.search(pattern, text)) is None:
        raise ValueError(f"text is {text[:80]!r}; allowed: one with {pattern!r}, as in compiled HLO")
    return found


def entry_arguments(program: Program) -> int:
    """Bytes of the arguments of a program on one device."""
    return sum(size(line.shape) for line in program[""].values() if line.opcode == "parameter")


def executions(program: Program, shares: Sequence[Fraction] = ()) -> dict[str, Fraction]:
    """How often each computation runs, on one device.

    Args:
        program: parsed.
        shares: of the visits of a conditional that go to each of its branches; for every conditional of so many.

    Raises:
        ValueError: a loop has no known trip count, or a conditional a number of branches that `shares` does not
            have. Either is refused only if the count is asked for, that is where something counted stands inside.
    """
    counted = {name for name in program if _counts(program, name)}
    times: dict[str, Fraction] = defaultdict(Fraction)

    def visit(name: str, often: Fraction) -> None:
        times[name] += often
        for line in program[name].values():
            for called, factor in _calls(line, shares, counted):
                if called in counted:
                    visit(called, often * factor)

    visit("", Fraction(1))
    return times


def collectives(program: Program, shares: Sequence[Fraction] = ()) -> Counter[Collective]:
    """Bytes of collectives on one device, by kind and by the devices that take part.

    Raises:
        ValueError: as `executions`; or a collective is asynchronous, as on other back ends than the CPU's.
    """
    total: dict[Collective, Fraction] = defaultdict(Fraction)
    for name, times in executions(program, shares).items():
        for line in program[name].values():
            if line.opcode.endswith("-start") and line.opcode.removesuffix("-start") in KINDS:
                raise ValueError(f"{line.name} is {line.opcode}; allowed: collectives in one piece, as on the CPU")
            if line.opcode in KINDS and len(group := _group(line)) > 1:
                given = sum(size(program[name][operand].shape) for operand in line.operands)
                whole = size(line.shape) if line.opcode == "all-gather" else given
                total[Collective(line.opcode, group)] += times * whole
    return Counter({key: _whole(value) for key, value in total.items()})


def dot_flop(program: Program, shares: Sequence[Fraction] = ()) -> int:
    """FLOP of matrix products on one device: 2 for each element of the result and each term of its sum.

    Raises:
        ValueError: as `executions`.
    """
    total = Fraction(0)
    for name, times in executions(program, shares).items():
        lines = program[name]
        for line in lines.values():
            if line.opcode == "dot":
                left = _numbers(_match(ARRAY, lines[line.operands[0]].shape)["sizes"])
                summed = _numbers(_match(r"lhs_contracting_dims=\{([\d,]*)\}", line.rest)[1])
                made = math.prod(_numbers(_match(ARRAY, line.shape)["sizes"]))
                total += times * 2 * made * math.prod([left[axis] for axis in summed])
    return _whole(total)


def _numbers(text: str) -> list[int]:
    """Of a list with commas; an empty one has none."""
    return [int(number) for number in text.split(",") if number]


def _whole(value: Fraction) -> int:
    """A count; shares of branches that do not fit the trips of their loop would leave a fraction."""
    if Fraction(value).denominator != 1:
        raise ValueError(f"a count is {value}; allowed: shares of branches that divide the trips of their loop")
    return int(value)


def _counts(program: Program, name: str) -> bool:
    """Whether a computation, or one that it calls, has anything that is counted."""
    lines = program[name].values()
    if any(line.opcode == "dot" or line.opcode.removesuffix("-start") in KINDS for line in lines):
        return True
    return any(_counts(program, called) for line in lines for called in _called(line))


def _called(line: Instruction) -> list[str]:
    """Computations that an instruction runs; those that only combine two numbers have nothing that counts."""
    branches = BRANCHES.search(line.rest)
    return CALLED.findall(line.rest) + (re.findall(r"[\w.\-]+", branches[1]) if branches else [])


def _calls(line: Instruction, shares: Sequence[Fraction], counted: set[str]) -> Iterator[tuple[str, int | Fraction]]:
    """Computations that an instruction runs, and how often."""
    called = _called(line)
    if not counted.intersection(called):
        return
    if line.opcode == "while":
        trips = TRIPS.search(line.rest)
        if trips is None:
            raise ValueError(f"{line.name} has no known trip count; allowed: loops that run a fixed number of times")
        yield from ((name, int(trips[1])) for name in called)
    elif line.opcode == "conditional":
        if len(called) != len(shares):
            raise ValueError(f"{line.name} has {len(called)} branches; allowed: {len(shares)}, one for each share")
        yield from zip(called, shares, strict=True)
    else:
        yield from ((name, 1) for name in called)


def _group(line: Instruction) -> tuple[int, ...]:
    """Devices among which device 0 takes part; of a permutation the first pair.

    Groups are written as lists, or as `[groups,size]<=[sizes]T(order)`: numbers laid out, turned and cut up.
    """
    if pairs := re.search(r"source_target_pairs=\{\{(\d+),(\d+)\}", line.rest):
        return tuple(sorted(map(int, pairs.groups())))
    if listed := re.search(r"replica_groups=\{\{([\d,]*)\}", line.rest):
        return tuple(_numbers(listed[1]))
    cut = re.search(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", line.rest)
    if cut is None:
        raise ValueError(f"{line.name} names no groups; allowed: replica_groups or source_target_pairs")
    sizes = _numbers(cut[3])
    order = _numbers(cut[4] or "") or list(range(len(sizes)))
    strides = [math.prod(sizes[axis + 1 :]) for axis in range(len(sizes))]
    members = []
    for place in range(int(cut[2])):  # of the first group, unravelled over the turned sizes
        number = 0
        for axis in reversed(order):
            place, digit = divmod(place, sizes[axis])
            number += digit * strides[axis]
        members.append(number)
    return tuple(members)
