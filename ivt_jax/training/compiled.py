"""Reads the text of a compiled program: its collectives and the bytes it moves.

XLA's own cost analysis counts the body of a loop once. Here a body counts as often as it runs.
"""

import dataclasses
import functools
import math
import re

import numpy as np

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")
_ARRAY = re.compile(r"\b([a-z]+\d*\w*)\[([\d,]*)\](?:\{([^}]*)\})?")
_FREE = ("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "call")
_FREE += ("conditional", "after-all", "partition-id", "iota")
_SLICES = ("dynamic-slice", "slice", "gather")


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a computation; `result` is its type as text, with layout."""

    name: str
    result: str
    opcode: str
    operands: list[str]
    rest: str  # what follows the operands


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of the text, and how often a step runs it."""

    kind: str
    runs: int
    size: int  # bytes of the whole array on one chip: gathered, reduced or still to be scattered
    groups: np.ndarray  # (groups, members) places on the flattened mesh; (0, 0) = all together
    channel: str  # its number in the text


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What one chip moves in a step."""

    collectives: list[Collective]
    memory_bytes: int  # read from and written to HBM, every loop body as often as it runs
    memory_bytes_once: int  # the same with every body counted once


def read_traffic(text: str) -> Traffic:
    """Parses `compiled.as_text()` of any backend."""
    program = _Program(text)
    named: dict[tuple, dict[str, list[Collective]]] = {}
    total, once = 0, 0
    for name, runs in program.runs().items():
        for line in program.computations[name].values():
            kind = line.opcode.removesuffix("-start")
            if kind in KINDS:
                found = _collective(line, kind, runs)
                places = named.setdefault((kind, found.channel, found.size), {})
                places.setdefault(name, []).append(found)
            if name not in program.fused:
                moved = program.moved(name, line)
                total, once = total + runs * moved, once + moved
    # A TPU hides a collective behind other work by naming it in each of its fusions; within one
    # computation, several of one channel are several.
    collectives = [
        min(places.values(), key=lambda found: found[0].runs) for places in named.values()
    ]
    return Traffic([found for same in collectives for found in same], total, once)


class _Program:
    """Computations by name, each with its instructions by name."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry, current = "", {}
        for line in text.splitlines():
            head = re.match(r"(ENTRY )?%?(\S+) \(.*\{$", line)
            if head:
                current = self.computations[head[2]] = {}
                self.entry = head[2] if head[1] else self.entry
            elif found := _instruction(line):
                current[found.name] = found
        lines = [line for c in self.computations.values() for line in c.values()]
        self.fused = {_called(line.rest, "calls") for line in lines if line.opcode == "fusion"}

    def runs(self) -> dict[str, int]:
        """How often a step runs each computation that it reaches."""
        found: dict[str, int] = {}

        def visit(name: str, times: int) -> None:
            found[name] = found.get(name, 0) + times
            for line in self.computations[name].values():
                if line.opcode == "while":
                    visit(_called(line.rest, "body"), times * self._trips(line))
                elif line.opcode in ("fusion", "call") or line.opcode.endswith("-start"):
                    for attribute in ("calls", "to_apply"):
                        called = _called(line.rest, attribute)
                        if called and line.opcode not in ("all-reduce-start",):
                            visit(called, times)
                elif line.opcode == "conditional":
                    for called in re.findall(r"%([\w.-]+)", _braced(line.rest, "branch_comp")):
                        visit(called, times)

        visit(self.entry, 1)
        return found

    def _trips(self, line: Instruction) -> int:
        known = re.search(r'known_trip_count":\{"n":"(\d+)"', line.rest)
        if known:
            return int(known[1])
        condition = self.computations[_called(line.rest, "condition")].values()
        limits = [c.rest for c in condition if c.opcode == "constant" and c.result[:3] == "s32"]
        numbers = [int(m[1]) for limit in limits if (m := re.match(r"\((\d+)\)", limit))]
        return max(numbers, default=1)

    def moved(self, name: str, line: Instruction) -> int:
        """Bytes that one instruction outside a fusion reads from HBM and writes to it."""
        if line.opcode in _FREE or line.opcode.endswith("-done"):
            return 0
        if 'custom_call_target="AllocateBuffer"' in line.rest:
            return 0
        if line.opcode.removesuffix("-start") in _SLICES and line.result.startswith("(("):
            return _fetched(line.result)
        if line.opcode.endswith("-start"):  # the result names source, destination and a flag
            return _bytes(line.result)
        if line.opcode == "fusion":
            called = _called(line.rest, "calls")
            return min(self._written(called), _bytes(line.result)) + sum(
                self._read(called, number) * self._in_memory(name, operand)
                for number, operand in enumerate(line.operands)
            )
        if line.opcode in _SLICES:
            return 2 * _bytes(line.result)
        if line.opcode == "dynamic-update-slice":
            return 2 * _bytes(self._type(name, line.operands[1]))
        return _bytes(line.result) + sum(_bytes(self._type(name, o)) for o in line.operands)

    def _type(self, name: str, operand: str) -> str:
        found = self.computations[name].get(operand)
        return found.result if found else ""

    def _in_memory(self, name: str, operand: str) -> bool:
        return _bytes(self._type(name, operand)) > 0

    @functools.cache  # noqa: B019 -- a program lives as long as one reading of its text
    def _read(self, name: str, number: int) -> int:
        """Bytes that a fusion reads of its parameter, whole or by slices."""
        lines = self.computations[name]
        parameter = next(
            line
            for line in lines.values()
            if line.opcode == "parameter" and line.rest.startswith(f"({number})")
        )
        whole = _bytes(parameter.result, any_space=True)
        return min(whole, self._read_by_users(name, parameter.name, whole))

    def _read_by_users(self, name: str, wanted: str, whole: int) -> int:
        total = 0
        for line in self.computations[name].values():
            for place, operand in enumerate(line.operands):
                if operand != wanted:
                    continue
                if line.opcode in _SLICES and place == 0:
                    total += _bytes(line.result, any_space=True)
                elif line.opcode == "dynamic-update-slice" and place == 0:
                    continue  # written in place
                elif line.opcode == "bitcast":
                    total += self._read_by_users(name, line.name, whole)
                elif line.opcode == "fusion":
                    total += self._read(_called(line.rest, "calls"), place)
                else:
                    return whole
        return total

    @functools.cache  # noqa: B019
    def _written(self, name: str) -> int:
        lines = self.computations[name]

        def size(line: Instruction) -> int:
            if line.opcode == "tuple":
                return sum(size(lines[operand]) for operand in line.operands)
            if line.opcode == "bitcast" and line.operands[0] in lines and _bytes(line.result):
                return size(lines[line.operands[0]])
            if line.opcode == "dynamic-update-slice" and _bytes(line.result):
                return _bytes(lines[line.operands[1]].result, any_space=True)
            if line.opcode == "fusion" and _bytes(line.result):
                return self._written(_called(line.rest, "calls"))
            return _bytes(line.result)

        return size(list(lines.values())[-1])


def _instruction(line: str) -> Instruction | None:
    head = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
    if not head:
        return None
    rest = line[head.end() :]
    end = _closing(rest) if rest.startswith("(") else rest.index(" ")
    result, rest = rest[:end], rest[end:].lstrip()
    opcode, _, _ = rest.partition("(")
    rest = rest[len(opcode) :]
    inside = rest[: _closing(rest)]
    operands = re.findall(r"%([\w.-]+)", inside)
    keep = rest if opcode in ("parameter", "constant") else rest[len(inside) :]
    return Instruction(head[1], result, opcode, operands, keep)


def _closing(text: str) -> int:
    depth = 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if not depth:
            return place + 1
    return len(text)


def _called(rest: str, attribute: str) -> str:
    found = re.search(rf"\b{attribute}=%?([\w.-]+)", rest)
    return found[1] if found else ""


def _braced(rest: str, attribute: str) -> str:
    found = re.search(rf"\b{attribute}\w*=\{{([^}}]*)\}}", rest)
    return found[1] if found else ""


def _bytes(result: str, *, any_space: bool = False) -> int:
    """Bytes of a type's arrays, those in HBM only unless `any_space`."""
    total = 0
    for dtype, sizes, layout in _ARRAY.findall(result):
        if any_space or not re.search(r"S\([1-9]", layout):
            total += _bits(dtype) * math.prod(int(n) for n in sizes.split(",") if n) // 8
    return total


def _fetched(result: str) -> int:
    """Bytes moved by an asynchronous slice; its type is ((whole source, ...), slice, flag)."""
    source = result[1 : 1 + _closing(result[1:])]
    found = _ARRAY.search(result, 1 + len(source))
    part = found[0] if found else ""
    return _bytes(part) + _bytes(part, any_space=True) * (_bytes(source) > 0)


def _bits(dtype: str) -> int:
    digits = re.match(r"[a-z]+(\d+)", dtype)
    return int(digits[1]) if digits else 8  # pred


def _collective(line: Instruction, kind: str, runs: int) -> Collective:
    groups = _groups(line.rest)
    members = groups.shape[1] or 1
    size = _bytes(line.result, any_space=True)
    if line.opcode.endswith("-start") and kind == "all-gather":  # its operand stands there too
        size = size * members // (members + 1)
    if kind == "reduce-scatter":
        size *= members
    channel = re.search(r"channel_id=(\d+)", line.rest)
    return Collective(kind, runs, size, groups, channel[1] if channel else line.name)


def _groups(rest: str) -> np.ndarray:
    """Members of each group, from any of the three ways to write them."""
    listed = re.search(r"replica_groups=\{((?:\{[\d,]*\},?)*)\}", rest)
    if listed:
        rows = re.findall(r"\{([\d,]+)\}", listed[1])
        return np.array([[int(n) for n in row.split(",")] for row in rows] or np.zeros((0, 0)), int)
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?", rest)
    if iota:
        shape, sizes = (tuple(int(n) for n in part.split(",")) for part in iota.groups()[:2])
        places = np.arange(math.prod(sizes)).reshape(sizes)
        if iota[3]:
            places = places.transpose([int(n) for n in iota[3].split(",")])
        return places.reshape(shape)
    named = re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", rest)
    if named:
        axes = {name: int(n) for name, n in re.findall(r"'(\w+)'=(\d+)", named[1])}
        chosen = re.findall(r"'(\w+)'", named[2])
        kept = [place for place, name in enumerate(axes) if name not in chosen]
        order = [*kept, *(list(axes).index(name) for name in chosen)]
        places = np.arange(math.prod(axes.values())).reshape(tuple(axes.values())).transpose(order)
        return places.reshape(-1, math.prod(axes[name] for name in chosen))
    return np.zeros((0, 0), int)
