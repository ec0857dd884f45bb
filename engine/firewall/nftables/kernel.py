"""The kernel's side of nftables, by nfnetlink: a batch is loaded, and our table is read as the kernel has it.

What was read is what is checked after a load, and watched from then on: three dumps, a third of a millisecond.
Layouts: linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h; numbers in attributes are big-endian.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache

from engine.firewall.nftables.encode import COUNTER, HOOKS, INET, SUBSYSTEM, VERDICTS, Batch
from engine.firewall.nftables.render import TABLE

NETLINK_NETFILTER = 12  # linux/netlink.h
GROUP_NFTABLES = 7  # NFNLGRP_NFTABLES: the kernel's notes of every change
TIMEOUT = 10.0  # seconds for an answer of the kernel

_SO_SNDBUFFORCE, _SEND_BUFFER = 32, 4 << 20  # asm-generic/socket.h; bytes: a batch is sent as one piece
_GETTABLE, _GETCHAIN, _GETRULE, _GETOBJ = 1, 4, 7, 19
_REQUEST, _DUMP, _INTERRUPTED = 0x1, 0x300, 0x10
_ERROR, _DONE = 2, 3
_NAME = 1  # NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_OBJ_TABLE, NFTA_EXPR_NAME, NFTA_LIST_ELEM
_CHAIN_NAME, _CHAIN_HOOK, _CHAIN_POLICY = 3, 4, 5
_HOOK_NUMBER, _HOOK_PRIORITY = 1, 2
_RULE_CHAIN, _RULE_EXPRESSIONS, _RULE_USERDATA = 2, 4, 7
_EXPR_DATA, _IMMEDIATE_DATA, _DATA_VERDICT, _VERDICT_CODE = 2, 2, 2, 1
_OBJ_NAME, _OBJ_TYPE, _OBJ_DATA, _COUNTER_BYTES, _COUNTER_PACKETS = 2, 3, 4, 1, 2
_HOOKS = {number: name for name, number in HOOKS.items()}
_VERDICTS = {number: name for name, number in VERDICTS.items()}
_COMMENT = 0  # NFTNL_UDATA_RULE_COMMENT
_OURS = struct.pack("=HH", 5 + len(TABLE), _NAME) + TABLE.encode() + bytes(4 - len(TABLE) % 4)


@dataclass(frozen=True)
class Table:
    """The attributes of our table, its chains and its rules, as the kernel lists them; equal if nothing has changed."""

    table: bytes
    chains: tuple[bytes, ...]
    rules: tuple[bytes, ...]

    @property
    def outline(self) -> tuple[str, ...]:
        """What `engine.firewall.nftables.apply.outline` says of a document, chain by chain."""
        return (*map(_chain, self.chains), *map(_rule, self.rules))


class NftError(Exception):
    """nftables refused a batch, or cannot be reached; one sentence."""


class NftMissing(NftError):
    """There is no nftables in this kernel."""


def run(batch: Batch) -> None:
    """As `Access.run`, from any thread, in the calling thread's network namespace."""
    with Access() as access:
        access.run(batch)


def read() -> Table | None:
    """As `Access.read`, from any thread, in the calling thread's network namespace."""
    with Access() as access:
        return access.read()


class Access:
    """Loads and reads from one thread, and in the network namespace in which that thread first did.

    Its socket is kept: when one is closed the kernel waits until everything that was replaced has been freed, which
    takes longer than loading.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __enter__(self) -> Access:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, batch: Batch) -> None:
        """Have it all done, in one transaction. NftError: nothing of it was done, and why."""
        try:
            netlink = self._opened()
            netlink.send(batch.data)
            error, sequence = _answer(netlink, len(batch.steps) - 2)  # the last step; behind it is the end
        except OSError as failure:
            self.close()  # an answer that is still to come belongs to no later question
            if failure.errno == errno.EPROTONOSUPPORT:
                raise NftMissing("the kernel has no netfilter") from failure
            raise NftError(failure.strerror or str(failure)) from failure
        if error:
            self.close()
            if (error, sequence) == (errno.EOPNOTSUPP, 0):
                raise NftMissing("the kernel has no nf_tables")
            step = batch.steps[sequence] if sequence < len(batch.steps) else "the transaction"
            raise NftError(f"{os.strerror(error)}, for {step}")

    def read(self) -> Table | None:
        """Our table; None: there is none. OSError is the kernel's."""
        for _ in range(10):
            try:
                netlink = self._opened()
                tables, chains, rules = (_dump(netlink, kind) for kind in (_GETTABLE, _GETCHAIN, _GETRULE))
            except InterruptedError:  # somebody changes them meanwhile
                continue
            except OSError:
                self.close()
                raise
            return Table(tables[0], chains, rules) if tables else None
        raise OSError("nftables' rules change all the time")

    def counters(self) -> dict[str, tuple[int, int]]:
        """Packets and bytes by the name of each of our table's counters; none without a table. OSError."""
        try:
            found = map(_attributes, _dump(self._opened(), _GETOBJ))
        except InterruptedError:  # the table is being replaced, and a moment ago it was read
            return {}
        except OSError:
            self.close()
            raise
        counted = {}
        for attributes in found:
            if _number(attributes[_OBJ_TYPE]) == COUNTER:
                data = _attributes(attributes[_OBJ_DATA])
                counted[_text(attributes[_OBJ_NAME])] = (
                    _number(data[_COUNTER_PACKETS]),
                    _number(data[_COUNTER_BYTES]),
                )
        return counted

    def close(self) -> None:
        """Close it; the next use begins anew."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def _opened(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self._socket.bind((0, 0))
            self._socket.settimeout(TIMEOUT)
            with suppress(PermissionError):  # who only reads needs none
                self._socket.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SEND_BUFFER)
        return self._socket


def _answer(netlink: socket.socket, last: int) -> tuple[int, int]:
    """The first error and the sequence number of its message; no error once the last message is acknowledged."""
    while True:
        for kind, _, sequence, body in _messages(netlink.recv(65536)):
            error = -struct.unpack_from("=i", body)[0] if kind == _ERROR else 0
            if error or (kind == _ERROR and sequence == last):
                return error, sequence


def _dump(netlink: socket.socket, kind: int) -> tuple[bytes, ...]:
    """The attributes of every object of the kind that is our table's: the table's name comes first in each."""
    filtered = _OURS if kind in (_GETRULE, _GETOBJ) else b""  # the kernel filters these alone
    length = 20 + len(filtered)
    netlink.send(struct.pack("=IHHIIBBH", length, SUBSYSTEM | kind, _REQUEST | _DUMP, kind, 0, INET, 0, 0) + filtered)
    found: list[bytes] = []
    interrupted = False
    while True:
        for answer, flags, _, body in _messages(netlink.recv(65536)):
            interrupted |= bool(flags & _INTERRUPTED)
            if answer in (_ERROR, _DONE):
                error = struct.unpack_from("=i", body)[0] if len(body) >= 4 else 0
                if error:
                    raise OSError(-error, os.strerror(-error))
                if interrupted:
                    raise InterruptedError
                return tuple(found)
            if body[0] == INET and body.startswith(_OURS, 4):
                found.append(body[4:])


def _chain(data: bytes) -> str:
    attributes = _attributes(data)
    if _CHAIN_HOOK not in attributes:
        return f"{_text(attributes[_CHAIN_NAME])}: no hook"
    hook = _attributes(attributes[_CHAIN_HOOK])
    number, priority = _number(hook[_HOOK_NUMBER]), _number(hook[_HOOK_PRIORITY], signed=True)
    policy = _VERDICTS.get(_number(attributes.get(_CHAIN_POLICY, b"\0\0\0\1")), "?")
    return f"{_text(attributes[_CHAIN_NAME])}: hook {_HOOKS.get(number, number)} {priority}, policy {policy}"


def _rule(data: bytes) -> str:
    attributes = _attributes(data)
    chain, expressions = attributes[_RULE_CHAIN], attributes.get(_RULE_EXPRESSIONS, b"")
    return _line(chain, expressions, attributes.get(_RULE_USERDATA, b""))


@lru_cache(maxsize=512)
def _line(chain: bytes, expressions: bytes, userdata: bytes) -> str:
    """A rule in a few words; each load brings the same rules again."""
    last = [expression for _, expression in _split(expressions)][-1:]
    verdict = _verdict(_attributes(last[0])) if last else "continue"
    return f"{_text(chain)}: {_comment(userdata)} {verdict}"


def _verdict(expression: dict[int, bytes]) -> str:
    """The word of a rule's last expression."""
    name = _text(expression.get(_NAME, b""))
    if name == "reject":
        return "reject"
    data = _attributes(expression.get(_EXPR_DATA, b""))
    verdict = _attributes(data.get(_IMMEDIATE_DATA, b"")).get(_DATA_VERDICT) if name == "immediate" else None
    if verdict is None:
        return "continue"
    code = _number(_attributes(verdict)[_VERDICT_CODE], signed=True)
    return _VERDICTS.get(code, f"verdict {code}")


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _COMMENT:
            return _text(userdata[offset + 2 : offset + 2 + length])
        offset += 2 + length
    return "-"


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence number, body) of each."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind, flags, sequence = struct.unpack_from("=IHHI", data, offset)
        if not 16 <= length <= len(data) - offset:
            raise OSError("the kernel's answer is cut off")
        yield kind, flags, sequence, data[offset + 16 : offset + length]
        offset += (length + 3) & ~3


def _split(data: bytes) -> Iterator[tuple[int, bytes]]:
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if not 4 <= length <= len(data) - offset:
            raise OSError("the kernel's answer is cut off")
        yield kind & 0x3FFF, data[offset + 4 : offset + length]
        offset += (length + 3) & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    return dict(_split(data))


def _number(value: bytes, *, signed: bool = False) -> int:
    return int.from_bytes(value, "big", signed=signed)


def _text(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")
