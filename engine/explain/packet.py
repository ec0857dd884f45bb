"""A packet as one line of text: `DIRECTION INTERFACE PROTO SRC > DST [key=value...]`.

    out other udp 192.168.1.5:68 > 255.255.255.255:67
    in other icmp6:135/0 fe80::1 > ff02::1:ff00:1
    forward tunnel>other tcp 10.0.0.2:5000 > [2001:db8::1]:443
    out other udp 192.168.1.5:4000 > 198.51.100.7:51820 mark=0x6d6f6c65 uid=0
    out tunnel tcp 10.64.0.2 > 9.9.9.9 frag=later

Every word is checked, and a wrong one is named with its place and the nearest right one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from native.facts import App, Direction, Facts, Fragment, Interface

T = TypeVar("T")

SYNTAX = "DIRECTION INTERFACE PROTO SRC > DST [key=value...]"

_DIRECTIONS = {direction.name.lower(): direction for direction in Direction}
_INTERFACES = {interface.name.lower(): interface for interface in Interface}
_APPS = {app.name.lower().replace("_", "-"): app for app in App}
_FRAGMENTS = {"first": Fragment.FIRST, "later": Fragment.LATER}
_PROTOCOLS = {"icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "gre": 47, "esp": 50, "ah": 51, "icmp6": 58, "sctp": 132}
_PROTOCOL_NAMES = {number: name for name, number in _PROTOCOLS.items()}
_WITH_PORTS = ("tcp", "udp")
_WITH_TYPE = {"icmp": 4, "icmp6": 6}  # and the IP version each belongs to
_KEYS = ("mark", "uid", "exe", "state", "frag")


class PacketError(ValueError):
    """The text is no packet. `start` and `end`: the characters that are wrong; the message is one sentence."""

    def __init__(self, text: str, start: int, end: int, message: str) -> None:
        super().__init__(f"column {start + 1}: {message}")
        self.text, self.start, self.end = text, start, end

    def pointing(self) -> str:
        """The text with a line of carets below what is wrong."""
        return f"  {self.text}\n  {' ' * self.start}{'^' * max(1, self.end - self.start)}"


@dataclass
class _Keys:
    """What follows the destination."""

    mark: int = 0
    uid: int | None = None
    exe: App = App.UNKNOWN
    reply: bool = False
    fragment: Fragment = Fragment.WHOLE


@dataclass(frozen=True)
class _Word:
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


def parse_packet(text: str) -> Facts:
    """The packet of one line of text, as it is judged. PacketError says what is wrong and where."""
    return _Line(text).facts()


def packet_text(facts: Facts) -> str:
    """The line that `parse_packet` reads as these facts (lengths and fragment numbers are left out)."""
    match facts.direction:
        case Direction.OUT:
            interface = facts.iface_out.name.lower()
        case Direction.IN:
            interface = facts.iface_in.name.lower()
        case Direction.FORWARD:
            interface = f"{facts.iface_in.name.lower()}>{facts.iface_out.name.lower()}"
    proto = protocol_name(facts.proto)
    if _WITH_TYPE.get(proto, facts.version) != facts.version:
        proto = str(facts.proto)
    if facts.icmp_type is not None:
        proto += f":{facts.icmp_type}/{facts.icmp_code}"
    words = [facts.direction.name.lower(), interface, proto, end_text(facts.src, facts.sport), ">"]
    words.append(end_text(facts.dst, facts.dport))
    if facts.mark:
        words.append(f"mark={facts.mark:#x}")
    if facts.uid is not None:
        words.append(f"uid={facts.uid}")
    if facts.app is not App.UNKNOWN:
        words.append(f"exe={facts.app.name.lower().replace('_', '-')}")
    if facts.reply:
        words.append("state=reply")
    if facts.fragment is not Fragment.WHOLE:
        words.append(f"frag={facts.fragment.name.lower()}")
    return " ".join(words)


def protocol_name(number: int) -> str:
    """The protocol's name, or its number."""
    return _PROTOCOL_NAMES.get(number, str(number))


def end_text(address: IPv4Address | IPv6Address, port: int | None) -> str:
    """An address with its port, if there is one."""
    if port is None:
        return str(address)
    return f"{address}:{port}" if address.version == 4 else f"[{address}]:{port}"


class _Line:
    """One line while it is read, word by word."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._words = [_Word(found[0], found.start()) for found in re.finditer(r"\S+", text)]
        self._at = 0

    def facts(self) -> Facts:
        direction = self._choose(self._next("a direction: out, in or forward"), _DIRECTIONS, "direction")
        iface_in, iface_out = self._interfaces(direction)
        protocol = self._next("a protocol, such as udp, tcp or icmp6:135/0")
        name, number, icmp = self._protocol(protocol)
        source_word = self._next("the source address")
        src, sport = self._address(source_word)
        arrow = self._next("'>' after the source")
        if arrow.text != ">":
            raise self._wrong(arrow, f"expected '>' between source and destination, not {arrow.text!r}")
        destination_word = self._next("the destination address")
        dst, dport = self._address(destination_word)
        keys = self._keys()

        fragment = keys.fragment
        later = fragment is Fragment.LATER
        if src.version != dst.version:
            raise self._wrong(
                destination_word, f"an IPv{src.version} source cannot send to the IPv{dst.version} address {dst}"
            )
        version = _WITH_TYPE.get(name)
        if version != src.version and protocol.text.isdecimal():
            version = None  # another version's ICMP, by its number: odd, but a packet
        if version is not None and version != src.version:
            raise self._wrong(protocol, f"{name} belongs to IPv{version}: use {'icmp' if version == 6 else 'icmp6'}")
        if version is not None and icmp is None and not later:
            raise self._wrong(
                protocol, f"{name} needs a type and a code, such as {name}:{135 if version == 6 else 8}/0"
            )
        for word, port in ((source_word, sport), (destination_word, dport)):
            if name not in _WITH_PORTS and port is not None:
                raise self._wrong(word, f"{name} has no ports")
            if later and port is not None:
                raise self._wrong(word, "a later fragment shows no ports: leave them out")
            if name in _WITH_PORTS and not later and port is None:
                example = end_text(src if word is source_word else dst, 443)
                raise self._wrong(word, f"{name} needs a port, such as {example}")
        if later and icmp is not None:
            raise self._wrong(protocol, f"a later fragment shows no type: write {name}")
        return Facts(
            src.version, number, src, dst, sport, dport, icmp[0] if icmp else None, icmp[1] if icmp else None,
            fragment=fragment, frag_id=1 if fragment is not Fragment.WHOLE else 0, frag_offset=1480 if later else 0,
            frag_len=1480 if fragment is not Fragment.WHOLE else 0, more_fragments=fragment is Fragment.FIRST,
            direction=direction, iface_in=iface_in, iface_out=iface_out, reply=keys.reply,
            uid=keys.uid, mark=keys.mark, app=keys.exe,
        )  # fmt: skip

    def _interfaces(self, direction: Direction) -> tuple[Interface, Interface]:
        """The incoming and the outgoing one; OTHER stands for the one that does not count."""
        if direction is not Direction.FORWARD:
            word = self._next("an interface: loopback, tunnel or other")
            if ">" in word.text:
                raise self._wrong(word, "only a forwarded packet has two interfaces: write forward, or one of them")
            interface = self._choose(word, _INTERFACES, "interface")
            out = direction is Direction.OUT
            return (Interface.OTHER, interface) if out else (interface, Interface.OTHER)
        word = self._next("two interfaces, such as tunnel>other")
        before, arrow, after = word.text.partition(">")
        if not arrow:
            raise self._wrong(word, f"a forwarded packet has two interfaces, such as {before}>other")
        return (
            self._choose(_Word(before, word.start), _INTERFACES, "interface"),
            self._choose(_Word(after, word.start + len(before) + 1), _INTERFACES, "interface"),
        )

    def _protocol(self, word: _Word) -> tuple[str, int, tuple[int, int] | None]:
        name, colon, rest = word.text.lower().partition(":")
        if name.isdecimal() and not colon:
            number = self._number(word, name, 255, "a protocol number")
            return _PROTOCOL_NAMES.get(number, name), number, None
        number = self._choose(_Word(name, word.start), _PROTOCOLS, "protocol", "a number from 0 to 255")
        if not colon:
            return name, number, None
        if name not in _WITH_TYPE:
            raise self._wrong(word, f"{name} has no type: only icmp and icmp6 do")
        found = re.fullmatch(r"(\d+)/(\d+)", rest)
        if found is None or int(found[1]) > 255 or int(found[2]) > 255:
            raise self._wrong(word, f"expected {name}:TYPE/CODE with numbers from 0 to 255, such as {name}:135/0")
        return name, number, (int(found[1]), int(found[2]))

    def _address(self, word: _Word) -> tuple[IPv4Address | IPv6Address, int | None]:
        six = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", word.text)
        if six is not None:
            host, port = six[1], six[2]
        elif word.text.count(":") == 1:
            host, _, port = word.text.partition(":")
        else:
            host, port = word.text, None
        try:
            address = ip_address(host)
        except ValueError:
            hint = "an address, such as 192.0.2.1:443 or [2001:db8::1]:443"
            if ">" in word.text:
                hint += ", with spaces around '>'"
            raise self._wrong(word, f"{host!r} is no IP address: expected {hint}") from None
        if isinstance(address, IPv6Address) and address.scope_id is not None:
            raise self._wrong(word, f"leave out the zone: {host.partition('%')[0]}")
        return address, None if port is None else self._number(word, port, 65535, "a port")

    def _keys(self) -> _Keys:
        keys = _Keys()
        seen: set[str] = set()
        while self._at < len(self._words):
            word = self._next("")
            key, equals, text = word.text.partition("=")
            if not equals:
                known = ", ".join(f"{name}=..." for name in _KEYS)
                raise self._wrong(word, f"{word.text!r} is too much: after the destination come {known}")
            self._choose(_Word(key, word.start), {name: name for name in _KEYS}, "key")
            if key in seen:
                raise self._wrong(word, f"{key} is given twice")
            seen.add(key)
            value = _Word(text, word.start + len(key) + 1)
            match key:
                case "mark":
                    keys.mark = self._number(value, text, 2**32 - 1, "a mark")
                case "uid":
                    keys.uid = 0 if text == "root" else self._number(value, text, 2**32 - 1, "a user id")
                case "exe":
                    keys.exe = self._choose(value, _APPS, "executable")
                case "state":
                    keys.reply = self._choose(value, {"new": False, "reply": True}, "state")
                case "frag":
                    keys.fragment = self._choose(value, _FRAGMENTS, "fragment")
        return keys

    def _next(self, expected: str) -> _Word:
        if self._at == len(self._words):
            end = len(self._text)
            raise PacketError(self._text, end, end + 1, f"the packet ends here: expected {expected} ({SYNTAX})")
        self._at += 1
        return self._words[self._at - 1]

    def _choose(self, word: _Word, choices: Mapping[str, T], what: str, also: str = "") -> T:
        if word.text in choices:
            return choices[word.text]
        listed = [*choices, *([also] if also else [])]
        message = f"{word.text!r} is no {what}: use {_either(listed)}"
        near = get_close_matches(word.text.lower(), choices, n=1, cutoff=0.5)
        raise self._wrong(word, f"{message}; did you mean {near[0]!r}?" if near else message)

    def _number(self, word: _Word, text: str, greatest: int, what: str) -> int:
        try:
            number = int(text, 0)
        except ValueError:
            number = -1
        if not 0 <= number <= greatest:
            raise self._wrong(word, f"{text!r} is not {what}: use a number from 0 to {greatest}")
        return number

    def _wrong(self, word: _Word, message: str) -> PacketError:
        return PacketError(self._text, word.start, word.end, message)


def _either(words: Iterable[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
