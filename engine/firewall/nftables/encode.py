"""`encode`: a document of ours as one batch of nf_tables messages, which the kernel takes as one transaction (ATOM-1).

Our own bytes instead of libnftables', because a change of state waits for them: the library needs twice as long to read
a document as the kernel to commit it, and these are made once for a policy. They are held against the library's: both
make the same table of every document (tests/netns/test_nftables_encode.py).

The grammar is the one that engine.firewall.nftables.render writes; anything outside it is a ValueError. Nothing is
added to a rule: what a payload needs (the IP version, the protocol) is matched before it. Every match loads a value
into register 1 and compares it there. A set in a rule is an anonymous one, made just before the rule.

Layouts: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h. Attributes' numbers are big-endian; what is compared
has the order in which the kernel loads it: the network's in payloads, the machine's own elsewhere.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import ip_address
from typing import Any, Literal

Json = dict[str, Any]

SUBSYSTEM = 10 << 8  # NFNL_SUBSYS_NFTABLES
INET = 1  # NFPROTO_INET
_BEGIN, _END = 0x10, 0x11  # NFNL_MSG_BATCH_*
_NEWTABLE, _DELTABLE, _NEWCHAIN, _NEWRULE, _NEWSET, _NEWSETELEM, _NEWOBJ = 0, 2, 3, 6, 9, 12, 18  # NFT_MSG_*
_REQUEST, _ACK, _CREATE, _APPEND = 0x1, 0x4, 0x400, 0x800
_NESTED = 0x8000

HOOKS = {"prerouting": 0, "input": 1, "forward": 2, "output": 3}  # NF_INET_*
VERDICTS = {"drop": 0, "accept": 1}  # NF_DROP, NF_ACCEPT
_EQUAL, _UNEQUAL = 0, 1  # NFT_CMP_*
_REGISTER = 1  # NFT_REG_1: 16 bytes
_ANONYMOUS, _CONSTANT, _INTERVAL = 1, 2, 4  # NFT_SET_*
_INTERVAL_END = 1  # NFT_SET_ELEM_INTERVAL_END
COUNTER = 1  # NFT_OBJECT_COUNTER
_TCP_RESET, _ICMPX = 1, 2  # NFT_REJECT_*
_PORT_UNREACHABLE = 1  # NFT_REJECT_ICMPX_*

_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_META_MARK = 3  # NFT_META_MARK
_WORDS = {
    "ipv4": 2, "ipv6": 10, "loopback": 772,  # NFPROTO_*, ARPHRD_*
    "established": 2, "related": 4, "new": 8,  # NF_CT_STATE_BIT
    "original": 0, "reply": 1,  # IP_CT_DIR_*
}  # fmt: skip
_SET_TYPES = {4: 7, 16: 8, 1: 12}  # for nft's listing, by the bytes of a key: ipv4_addr, ipv6_addr, inet_proto


@dataclass(frozen=True)
class Batch:
    """A document as the kernel takes it. `steps`: what each message does, by its sequence number."""

    data: bytes = field(repr=False)
    steps: tuple[str, ...]


def encode(document: Json) -> Batch:
    """The batch that does what the document says; the last step is acknowledged. ValueError: outside our grammar."""
    messages = [(SUBSYSTEM | kind, flags, body, step) for kind, flags, body, step in _messages(document)]
    kind, flags, body, step = messages[-1]
    messages[-1] = kind, flags | _ACK, body, step
    batch = [(_BEGIN, 0, b"", "the transaction"), *messages, (_END, 0, b"", "the end of the transaction")]
    data = []
    for sequence, (kind, flags, body, _) in enumerate(batch):
        family, resource = (INET, 0) if kind & SUBSYSTEM else (0, SUBSYSTEM >> 8)
        length = 20 + len(body)
        data.append(struct.pack("=IHHIIBB", length, kind, _REQUEST | flags, sequence, 0, family, 0))
        data.append(struct.pack(">H", resource) + body)
    return Batch(b"".join(data), tuple(step for *_, step in batch))


def _messages(document: Json) -> Iterator[tuple[int, int, bytes, str]]:
    """(kind, flags, attributes, what it does) of each message, in order."""
    sets = 0
    for command in document["nftables"]:
        ((verb, what),) = command.items()
        if verb == "metainfo":
            continue
        ((kind, it),) = what.items()
        if (verb, kind) == ("add", "table"):
            yield _NEWTABLE, _CREATE, _text(1, it["name"]) + _number(2, 0), f"the table {it['name']}"
        elif (verb, kind) == ("delete", "table"):
            yield _DELTABLE, 0, _text(1, it["name"]), f"the removal of the table {it['name']}"
        elif (verb, kind) == ("add", "chain"):
            yield _NEWCHAIN, _CREATE, _chain(it), f"the chain {it['name']}"
        elif (verb, kind) == ("add", "counter"):
            value = _nest(4, _attribute(1, bytes(8)), _attribute(2, bytes(8)))  # bytes, packets
            body = _text(1, it["table"]) + _text(2, it["name"]) + _number(3, COUNTER) + value
            yield _NEWOBJ, _CREATE, body, f"the counter {it['name']}"
        elif (verb, kind) == ("add", "rule"):
            step = f"the rule {it['comment']} of the chain {it['chain']}"
            rule = _Rule(it["table"], sets)
            body = _text(1, it["table"]) + _text(2, it["chain"]) + _nest(4, *map(rule.expression, it["expr"]))
            sets += len(rule.sets) // 2
            for message, flags, attributes in rule.sets:
                yield message, flags, attributes, step
            comment = it["comment"].encode() + b"\0"
            yield _NEWRULE, _CREATE | _APPEND, body + _attribute(7, bytes((0, len(comment))) + comment), step
        else:
            raise _outside(command)


def _chain(it: Json) -> bytes:
    hook = _nest(4, _number(1, HOOKS[it["hook"]]), _number(2, it["prio"] & 0xFFFFFFFF))
    names = _text(1, it["table"]) + _text(3, it["name"])
    return names + hook + _number(5, VERDICTS[it["policy"]]) + _text(7, it["type"])


class _Rule:
    """A rule's expressions, and the messages that make its sets; their numbers in the batch begin after `before`."""

    def __init__(self, table: str, before: int) -> None:
        self._table, self._before = table, before
        self.sets: list[tuple[int, int, bytes]] = []

    def expression(self, expression: Json) -> bytes:
        """The kernel's expressions for one of the document's."""
        ((kind, body),) = expression.items()
        if kind != "match":
            return _statement(kind, body)
        left, right, op = body["left"], body["right"], body["op"]
        load = _load(left)
        if op in ("==", "!=") and isinstance(right, dict) and "set" in right:
            return load.whole + self._lookup([_members(load, member) for member in right["set"]], load.size, op)
        return _comparison(load, op, right)

    def _lookup(self, members: list[tuple[bytes, int]], size: int, op: str) -> bytes:
        """Of values that are (bytes, leading bits that count)."""
        number = self._before + len(self.sets) // 2 + 1
        interval = any(bits < 8 * size for _, bits in members)
        values = list(_intervals(members, size)) if interval else [(value, 0) for value, _ in members]
        flags = _ANONYMOUS | _CONSTANT | (_INTERVAL if interval else 0)
        names = _text(1, self._table) + _text(2, "__set%d")
        key = _number(4, _SET_TYPES[size]) + _number(5, size)
        made = names + _number(3, flags) + key + _nest(9, _number(1, len(values))) + _number(10, number)
        elements = (_nest(1, _nest(1, _attribute(1, value)), _number(3, flag)) for value, flag in values)
        self.sets.append((_NEWSET, _CREATE, made))
        self.sets.append((_NEWSETELEM, _CREATE, names + _nest(3, *elements) + _number(4, number)))
        inverted = _number(5, 1) if op == "!=" else b""
        return _kernel("lookup", _text(1, "__set%d"), _number(2, _REGISTER), _number(4, number), inverted)


def _load(left: Json) -> _Load:
    ((kind, what),) = left.items()
    if kind == "&":
        load = _load(what[0])
        return _Load(load.whole, load.size, load.order, what[1], payload=load.payload)
    try:
        return _LOADS[kind, *what.values()]
    except KeyError:
        raise _outside(left) from None


def _comparison(load: _Load, op: str, right: Any) -> bytes:
    if op == "in" and load.flags:  # any of these
        words = [right] if isinstance(right, str) else right
        bits = sum(_WORDS[word] for word in words).to_bytes(load.size, load.order)
        return load.whole + _masked(bits) + _compared(_UNEQUAL, bytes(load.size))
    if op not in ("==", "!="):
        raise _outside({op: right})
    compare = _EQUAL if op == "==" else _UNEQUAL
    value, leading = _members(load, right)
    if load.mask:
        value = (int.from_bytes(value, load.order) << load.shift).to_bytes(load.size, load.order)
        return load.whole + _masked(load.mask.to_bytes(load.size, load.order)) + _compared(compare, value)
    if leading == 8 * load.size:
        return load.whole + _compared(compare, value)
    if leading and leading % 8 == 0 and load.payload:  # as many bytes of it
        return _payload(*load.payload, leading // 8) + _compared(compare, value[: leading // 8])
    mask = ((1 << leading) - 1 << 8 * load.size - leading).to_bytes(load.size, "big")
    return load.whole + _masked(mask) + _compared(compare, value)


def _members(load: _Load, right: Any) -> tuple[bytes, int]:
    """What the right side says: the value in as many bytes as are loaded, and how many leading bits of it count."""
    every = 8 * load.size
    match right:
        case {"prefix": {"addr": str(address), "len": int(bits)}}:
            value = _packed(address)
        case int():
            value, bits = right.to_bytes(load.size, load.order), every
        case str() if load.payload:
            value, bits = _packed(right), every
        case str() if load.size == 16:  # the name of an interface
            name = right[:-2] + "*" if right.endswith("\\*") else right
            value, bits = name.encode().ljust(load.size, b"\0"), every
        case str() if right in _WORDS:
            value, bits = _WORDS[right].to_bytes(load.size, load.order), every
        case _:
            raise _outside({"right": right})
    if len(value) != load.size:
        raise _outside({"right": right})
    return value, bits


def _intervals(members: list[tuple[bytes, int]], size: int) -> Iterator[tuple[bytes, int]]:
    """(key, flags) of the elements: where intervals begin, and behind them where they end; neighbours are one."""
    edges: list[int] = []
    for value, bits in sorted(members):
        begin = int.from_bytes(value, "big")
        if edges and edges[-1] == begin:
            edges.pop()
        else:
            edges.append(begin)
        edges.append(begin + (1 << 8 * size - bits))
    if edges[0] > 0:  # as nft does: what lies before the first one is an interval outside
        yield bytes(size), _INTERVAL_END
    for number, edge in enumerate(edges):
        if edge < 1 << 8 * size:
            yield edge.to_bytes(size, "big"), _INTERVAL_END if number % 2 else 0


def _statement(kind: str, body: Any) -> bytes:
    match kind, body:
        case (("accept" | "drop"), None):
            return _kernel("immediate", _number(1, 0), _nest(2, _nest(2, _number(1, VERDICTS[kind]))))
        case "reject", {"type": "tcp reset"}:
            return _kernel("reject", _number(1, _TCP_RESET), _attribute(2, b"\0"))
        case "reject", {"type": "icmpx", "expr": "port-unreachable"}:
            return _kernel("reject", _number(1, _ICMPX), _attribute(2, bytes((_PORT_UNREACHABLE,))))
        case "counter", str():
            return _kernel("objref", _number(1, COUNTER), _text(2, body))
        case "mangle", {"key": {"meta": {"key": "mark"}}, "value": int(mark)}:
            value = _nest(2, _attribute(1, mark.to_bytes(4, sys.byteorder)))
            set_mark = _kernel("meta", _number(2, _META_MARK), _number(3, _REGISTER))
            return _kernel("immediate", _number(1, _REGISTER), value) + set_mark
    raise _outside({kind: body})


@lru_cache(maxsize=64)
def _masked(mask: bytes) -> bytes:
    registers = _number(1, _REGISTER) + _number(2, _REGISTER) + _number(3, len(mask))
    return _kernel("bitwise", registers, _nest(4, _attribute(1, mask)), _nest(5, _attribute(1, bytes(len(mask)))))


@lru_cache(maxsize=256)
def _compared(op: int, value: bytes) -> bytes:
    return _kernel("cmp", _number(1, _REGISTER), _number(2, op), _nest(3, _attribute(1, value)))


def _kernel(name: str, *attributes: bytes) -> bytes:
    """One expression of the kernel's."""
    return _nest(1, _text(1, name), _nest(2, *attributes))


def _attribute(kind: int, data: bytes) -> bytes:
    length = 4 + len(data)
    return struct.pack("=HH", length, kind) + data + bytes(-length % 4)


def _nest(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NESTED, b"".join(parts))


@lru_cache(maxsize=256)
def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


@lru_cache(maxsize=64)
def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


@lru_cache(maxsize=256)
def _packed(address: str) -> bytes:
    return ip_address(address).packed


def _outside(what: Json) -> ValueError:
    return ValueError(f"{what} is outside the grammar of our rules")


@dataclass(frozen=True)
class _Load:
    """What the left side of a match loads into register 1: the expression `whole` loads `size` bytes.

    `mask`: the bits of these that count, if not all do; `shift`: by how many they are off the lowest one. `flags`:
    each bit says something of its own. `payload`: the header's number and the offset in it.
    """

    whole: bytes
    size: int
    order: Literal["little", "big"]
    mask: int = 0
    shift: int = 0
    flags: bool = False
    payload: tuple[int, int] | None = None


def _payload(header: int, offset: int, size: int) -> bytes:
    return _kernel("payload", _number(1, _REGISTER), _number(2, header), _number(3, offset), _number(4, size))


def _of_packet(name: str, key: int, size: int, *, flags: bool = False) -> _Load:
    """What the kernel knows of a packet without looking into it; in the machine's order."""
    return _Load(_kernel(name, _number(2, key), _number(1, _REGISTER)), size, sys.byteorder, flags=flags)


def _of_header(header: int, offset: int, size: int) -> _Load:
    return _Load(_payload(header, offset, size), size, "big", payload=(header, offset))


def _of_fragment(offset: int, size: int, mask: int, shift: int) -> _Load:
    """Of the IPv6 fragment header (44), wherever it is among the extension headers."""
    where = _attribute(2, bytes((44,))) + _number(3, offset)
    return _Load(_kernel("exthdr", _number(1, _REGISTER), where, _number(4, size)), size, "big", mask, shift)


_LOADS = {
    ("meta", "mark"): _of_packet("meta", _META_MARK, 4),  # NFT_META_*
    ("meta", "iifname"): _of_packet("meta", 6, 16),
    ("meta", "oifname"): _of_packet("meta", 7, 16),
    ("meta", "iiftype"): _of_packet("meta", 8, 2),
    ("meta", "oiftype"): _of_packet("meta", 9, 2),
    ("meta", "skuid"): _of_packet("meta", 10, 4),
    ("meta", "nfproto"): _of_packet("meta", 15, 1),
    ("meta", "l4proto"): _of_packet("meta", 16, 1),
    ("ct", "state"): _of_packet("ct", 0, 4, flags=True),  # NFT_CT_*
    ("ct", "direction"): _of_packet("ct", 1, 1),
    ("payload", "ip", "frag-off"): _of_header(_NETWORK, 6, 2),
    ("payload", "ip", "saddr"): _of_header(_NETWORK, 12, 4),
    ("payload", "ip", "daddr"): _of_header(_NETWORK, 16, 4),
    ("payload", "ip6", "saddr"): _of_header(_NETWORK, 8, 16),
    ("payload", "ip6", "daddr"): _of_header(_NETWORK, 24, 16),
    ("payload", "th", "sport"): _of_header(_TRANSPORT, 0, 2),
    ("payload", "th", "dport"): _of_header(_TRANSPORT, 2, 2),
    ("payload", "icmpv6", "type"): _of_header(_TRANSPORT, 0, 1),
    ("payload", "icmpv6", "code"): _of_header(_TRANSPORT, 1, 1),
    ("exthdr", "frag", "frag-off"): _of_fragment(2, 2, 0xFFF8, 3),
    ("exthdr", "frag", "more-fragments"): _of_fragment(3, 1, 0x01, 0),
}
