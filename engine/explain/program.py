"""A native program as text: its intervals on each dimension, and the rules that hold there."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address
from itertools import pairwise

from engine.filter import Compiled

_NAMES = ("context", "protocol", "origin", "sport", "dport", "icmp", "mark", "uid", "src4", "dst4", "src6", "dst6")
_WIDE = 16  # the first values of IPv6 addresses; others have 8 bytes


def listing(compiled: Compiled) -> str:
    """One line an interval: where it begins and ends, and the rules by their index. The bytes are what is read."""
    code = compiled.code
    _, version, rules, words, dimensions, size = struct.unpack_from("<4sHHHHI", code)
    lines = [f"native program, version {version}: {rules} rules, {size} bytes"]
    flags = code[16 : 16 + rules]
    for index, (rule, flag) in enumerate(zip(compiled.rules, flags, strict=True)):
        verdict = "accept" if flag & 1 else "reject" if flag & 2 else "drop"
        lines.append(f"  {index:3} {rule.id:8} {verdict:7} {rule.what}")
    at = 16 + -(-rules // 8) * 8
    for name in _NAMES[:dimensions]:
        (count,) = struct.unpack_from("<Q", code, at)
        at += 8
        width = _WIDE if name.endswith("6") else 8
        starts = []
        for i in range(count):
            pair = struct.unpack_from("<QQ" if width == _WIDE else "<Q", code, at + i * width)
            starts.append(pair[0] << 64 | pair[1] if width == _WIDE else pair[0])
        at += count * width
        lines.append(f"{name}: {count} interval{'s' if count > 1 else ''}")
        for i, (first, after) in enumerate(pairwise([*starts, None])):
            held = int.from_bytes(code[at + i * words * 8 : at + (i + 1) * words * 8], "little")
            span = _value(name, first)
            if after is None:
                span += " on"
            elif after - first > 1:
                span += f" to {_value(name, after - 1)}"
            lines.append(f"  {span}: {_indices(held, rules)}")
        at += count * words * 8
    return "\n".join(lines)


def _value(name: str, value: int | None) -> str:
    assert value is not None
    match name:
        case "src4" | "dst4":
            return str(IPv4Address(value))
        case "src6" | "dst6":
            return str(IPv6Address(value))
        case "mark":
            return f"{value:#x}"
        case "sport" | "dport" | "icmp" if value == 1 << 16:
            return "absent"
        case "uid" if value == 1 << 32:
            return "absent"
        case "icmp":
            return f"{value >> 8}/{value & 255}"
        case _:
            return str(value)


def _indices(held: int, rules: int) -> str:
    """Rules by index, runs of them shortened: "0-3 7 12"."""
    runs: list[list[int]] = []
    for index in (i for i in range(rules) if held >> i & 1):
        if runs and runs[-1][1] == index - 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    return " ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
