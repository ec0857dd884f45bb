"""Shows that the proofs can fail: artefacts broken on purpose, each of which must be caught with a packet.

A mutant is an artefact of a policy with one thing changed: a rule, a line, a filter, a bit. `MUTANTS` has them by
enforcer. The packet is found by z3 and then judged by the enforcer itself, in plain code (`Counterexample.confirm`).
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_network
from typing import Any

from engine.filter import compile_rules
from engine.firewall.wfp.constants import Action, Field, Layer, Match
from engine.firewall.wfp.filters import Condition, Filter, FilterSet
from engine.policy import App, Direction, Interface, Platform, Policy, Rule, State, rules_for
from tests.proofs.policies import Case, _Maker
from tests.proofs.prove import NATIVE, NFTABLES, PF, REFERENCE, WFP, Counterexample, Enforcer, compare

PLATFORM = {
    "reference": Platform.LINUX, "native": Platform.LINUX, "nftables": Platform.LINUX, "pf": Platform.MACOS,
    "wfp": Platform.WINDOWS,
}  # fmt: skip


def base(name: str, platform: Platform) -> Case:
    """The policies that are broken: between them they have every rule there is."""
    make = _Maker(0)
    tunnel = make.tunnel("46", platform)
    match name:
        case "connected":
            policy = Policy(State.CONNECTED, platform, True, peer=make.hop("peer", "4udp"), tunnel=tunnel)
        case "custom":
            dns = make.servers(("local4", "local6", "public4", "public6"))
            policy = Policy(State.CONNECTED, platform, True, peer=make.hop("peer", "6udp"), tunnel=tunnel, dns=dns)
        case "connecting":
            policy = Policy(
                State.CONNECTING, platform, True, peer=make.hop("peer", "4udp"), bridge=make.hop("bridge", "4tcp"),
                api=make.hop("api", "6tcp"), tunnel=tunnel,
            )  # fmt: skip
        case _:
            policy = Policy(State.ERROR, platform, False, api=make.hop("api", "4tcp"))
    return Case(policy, make.symbols)


@dataclass(frozen=True)
class Mutant:
    """What was broken, in the artefact of which policy, and how."""

    enforcer: Enforcer
    base: str
    what: str
    change: Callable[[Any], Any]
    of_rules: bool = False  # changes the rules that a native program is compiled from

    def broken(self, policy: Policy) -> Any:
        """The artefact of a policy, changed."""
        if self.of_rules:
            return compile_rules(self.change(rules_for(policy)))
        return self.change(self.enforcer.make(policy))

    def hunt(self) -> Counterexample | None:
        """A packet that gives the mutant away; None: it went unseen. AssertionError: nothing was changed."""
        case = base(self.base, PLATFORM[self.enforcer.name])
        artefact = self.broken(case.policy)
        assert artefact != self.enforcer.make(case.policy), f"{self.what}: nothing changed"
        return compare(case, self.enforcer, artefact, self.broken)


# ---- rules: for the reference, and compiled for the native program ----

Rules = tuple[Rule, ...]


def _drop(id: str, which: int | None = None) -> Callable[[Rules], Rules]:
    def change(rules: Rules) -> Rules:
        places = [i for i, rule in enumerate(rules) if rule.id == id]
        gone = places if which is None else [places[which]]
        return tuple(rule for i, rule in enumerate(rules) if i not in gone)

    return change


def _edit(id: str, which: int = 0, **changes: Any) -> Callable[[Rules], Rules]:
    def change(rules: Rules) -> Rules:
        place = [i for i, rule in enumerate(rules) if rule.id == id][which]
        return (*rules[:place], replace(rules[place], **changes), *rules[place + 1 :])

    return change


def _last(id: str) -> Callable[[Rules], Rules]:
    """Behind everything but P-0."""

    def change(rules: Rules) -> Rules:
        moved = [rule for rule in rules if rule.id == id]
        return (*(rule for rule in rules[:-1] if rule.id != id), *moved, rules[-1])

    return change


def _net(*texts: str) -> Any:
    return tuple(ip_network(text) for text in texts)


_LAN_LESS = _net("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10")
_RULES: tuple[tuple[str, str, Callable[[Rules], Rules]], ...] = (
    ("connected", "drops LO-1", _drop("LO-1")),
    ("connected", "drops DHCP4-1", _drop("DHCP4-1")),
    ("connected", "drops NDP-2", _drop("NDP-2")),
    ("connected", "drops the first hop's answers", _drop("CTD-3", 1)),
    ("connected", "drops CON-2's block, so that LAN opens a relay there", _drop("CON-2")),
    ("connected", "drops LAN-4", _drop("LAN-4")),
    ("connecting", "drops the block of the server behind the bridge", _drop("CON-1", 2)),
    ("connecting", "drops the block of DNS", _drop("DNS-3")),
    ("connected", "puts the tunnel and LAN before the block of DNS", _last("CTD-2")),
    ("connecting", "puts LAN before the block of DNS", _last("DNS-3")),
    ("connected", "forgets the mark", _edit("CTD-3", mark=None)),
    ("connected", "wants another mark", _edit("CTD-3", mark=0x6D6F6C66)),
    ("connected", "takes TCP for the first hop", _edit("CTD-3", protocols=(6,))),
    ("connected", "takes the next port of the first hop", _edit("CTD-3", destination_port=51821)),
    ("connected", "lets unasked packets of the first hop in", _edit("CTD-3", 1, reply=False)),
    ("error", "opens the API to everybody", _edit("API-1", uid=None)),
    ("error", "opens the API's port on every host", _edit("API-1", destinations=())),
    ("connected", "widens 192.168/16 to /15", _edit("LAN-1", destinations=_net("192.168.0.0/15"))),
    ("connected", "narrows 172.16/12 to /16", _edit("LAN-1", 1, sources=_net("172.16.0.0/16"))),
    ("connected", "misses fc00::/7", _edit("LAN-1", destinations=_LAN_LESS)),
    ("connected", "lets multicast in", _edit("LAN-2", directions=(Direction.IN, Direction.OUT))),
    ("connected", "lets DNS to the gateway out of every interface", _edit("DNS-1", interfaces=())),
    ("connected", "blocks DNS over UDP alone", _edit("CTD-2", protocols=(17,))),
    ("connected", "blocks DNS over IPv4 alone", _edit("CTD-2", version=4)),
    ("connected", "forwards DNS", _edit("CTD-2", forward=False)),
    ("connected", "takes every interface for the tunnel", _edit("CTD-1", interfaces=())),
    ("connected", "lets the tunnel speak to guests unasked", _edit("FWD-1", reply=False)),
    ("connected", "forwards whatever comes in by the tunnel", _edit("CTD-1", 1, forward=True)),
    ("connected", "gives guests no answers", _edit("FWD-1", forward=False)),
    ("connected", "lets the tunnel speak to the LAN unasked", _drop("FWD-1", 1)),
    ("connected", "forwards by loopback", _edit("LO-1", forward=True)),
    ("connected", "forwards from the LAN to anywhere", _edit("LAN-1", 1, forward=True)),
    ("error", "lets another ICMPv6 code out", _edit("NDP-1", icmp=(133, 1))),
    ("error", "takes DHCPv6 requests from anywhere", _edit("DHCP6-1", sources=())),
    ("connected", "blocks without an answer", _edit("P-0", reject=False)),
    ("custom", "asks a public server outside the tunnel", _edit("DNS-2", interfaces=(Interface.OTHER,))),
    ("custom", "asks a local server inside the tunnel", _edit("DNS-2", 1, interfaces=())),
    ("custom", "lets a local server speak unasked", _edit("DNS-2", 2, reply=False)),
    ("custom", "lets a local server answer through the tunnel", _edit("DNS-2", 2, interfaces=())),
)


# ---- the program's bytes ----

_NAMES = (
    "direction and interfaces", "protocol", "origin", "source port", "destination port", "ICMP type", "mark", "uid",
    "IPv4 source", "IPv4 destination", "IPv6 source", "IPv6 destination",
)  # fmt: skip


def _layout(code: bytes) -> Iterator[tuple[int, int, int, int]]:
    """(offset of the starts, their width, of the rows, how many) of each dimension."""
    rules, words = struct.unpack_from("<HH", code, 6)
    at = 16 + (rules + 7) // 8 * 8
    for dimension in range(12):
        width = 8 if dimension < 10 else 16
        (count,) = struct.unpack_from("<Q", code, at)
        yield at + 8, width, at + 8 + count * width, count
        at += 8 + count * (width + words * 8)


def _blind(dimension: int) -> Callable[[bytes], bytes]:
    """Every rule holds everywhere in this dimension."""

    def change(code: bytes) -> bytes:
        rules, words = struct.unpack_from("<HH", code, 6)
        _, _, rows, count = list(_layout(code))[dimension]
        everything = ((1 << rules) - 1).to_bytes(words * 8, "little")
        return code[:rows] + everything * count + code[rows + len(everything) * count :]

    return change


def _shifted(dimension: int, which: int) -> Callable[[bytes], bytes]:
    """An interval begins one value late, so the one before it is one too long. `which` counts from the end."""

    def change(code: bytes) -> bytes:
        starts, width, _, count = list(_layout(code))[dimension]
        at = starts + (count - which + 1) * width - 8  # the low half
        (value,) = struct.unpack_from("<Q", code, at)
        return code[:at] + struct.pack("<Q", value + 1) + code[at + 8 :]

    return change


def _flag(rule: int, flag: int) -> Callable[[bytes], bytes]:
    return lambda code: code[: 16 + rule] + bytes([flag]) + code[17 + rule :]


# ---- text: a line of pf.conf, or a command of the nftables document ----

Text = Callable[[list[str]], list[str]]


def _lines(where: tuple[str, ...], change: Callable[[str], str | None]) -> Text:
    """Change each line that has all these words; None: take it out."""

    def apply(lines: list[str]) -> list[str]:
        changed = [change(line) if all(word in line for word in where) else line for line in lines]
        return [line for line in changed if line is not None]

    return apply


def _without(*where: str) -> Text:
    return _lines(where, lambda line: None)


def _swap(old: str, new: str, *where: str) -> Text:
    return _lines((old, *where), lambda line: line.replace(old, new))


def _to_end(before: int, *where: str) -> Text:
    """Move these lines to the end, with `before` lines still behind them."""

    def apply(lines: list[str]) -> list[str]:
        moved = [line for line in lines if all(word in line for word in where)]
        stay = [line for line in lines if line not in moved]
        return [*stay[: len(stay) - before], *moved, *stay[len(stay) - before :]]

    return apply


def _json(change: Text) -> Callable[[Any], Any]:
    def apply(document: Any) -> Any:
        lines = [json.dumps(command) for command in document["nftables"]]
        return {"nftables": [json.loads(line) for line in change(lines)]}

    return apply


def _conf(change: Text) -> Callable[[str], str]:
    return lambda text: "\n".join(change(text.splitlines())) + "\n"


def _m(left: str, right: str, op: str = "==") -> str:
    """A match as it stands in a line, with the comma behind it."""
    return f'{{"match": {{"op": "{op}", "left": {left}, "right": {right}}}}}, '


_MARK = _m('{"meta": {"key": "mark"}}', "1836018789")
_STATE = _m('{"ct": {"key": "state"}}', '"established"', "in")
_REPLY = _m('{"ct": {"key": "direction"}}', '"reply"')
_OUT, _IN, _FWD = '"chain": "output"', '"chain": "input"', '"chain": "forward"'
_OUTSIDE = _m('{"meta": {"key": "oifname"}}', '"molehill0"', "!=")
_CODE = _m('{"payload": {"protocol": "icmpv6", "field": "code"}}', "0")


def _c(comment: str) -> str:
    return f'"comment": "{comment}"'


_NFTABLES: tuple[tuple[str, str, Text], ...] = (
    ("connected", "drops LO-1 of output", _without(_c("LO-1"), _OUT)),
    ("connected", "drops DHCP4-2 of input", _without(_c("DHCP4-2"), _IN)),
    ("error", "asks one DHCPv6 group alone", _swap('"ff05::1:3"', '"ff02::1:2"', _c("DHCP6-1"))),
    ("error", "lets Neighbour Discovery of any code out", _swap(_CODE, "", _c("NDP-4"))),
    ("connected", "lets a tunnel and LAN before the block of DNS", _to_end(9, _c("CTD-2"))),
    ("connected", "forgets the mark in output", _swap(_MARK, "", _c("CTD-3"), _OUT)),
    ("connected", "forgets the mark in forward", _swap(_MARK, "", _c("CTD-3"), _FWD)),
    ("connected", "wants another mark", _swap("1836018789", "1836018790", _c("CTD-3"), _OUT)),
    ("connected", "takes TCP for the first hop", _swap('"right": 17', '"right": 6', _c("CTD-3"), _OUT)),
    ("connected", "takes the next port", _swap('"right": 51820', '"right": 51821', _c("CTD-3"), _OUT)),
    ("connected", "lets unasked packets of the first hop in", _swap(_STATE + _REPLY, "", _c("CTD-3"), _IN)),
    ("connected", "marks all packets of the first hop", _swap(_STATE + _REPLY, "", _c("CTD-3"), "prerouting")),
    ("connected", "drops CON-2's block", _without(_c("CON-2"), _OUT)),
    ("connected", "blocks the first hop inside the tunnel", _swap(_OUTSIDE, "", _c("CON-2"))),
    ("connected", "widens 192.168/16 to /15", _swap('"192.168.0.0", "len": 16', '"192.168.0.0", "len": 15', _OUT)),
    ("connected", "narrows 10/8 to /9", _swap('"10.0.0.0", "len": 8', '"10.0.0.0", "len": 9', _IN)),
    ("connected", "misses LAN-1 of IPv6", _without(_c("LAN-1"), _OUT, '"ipv6"')),
    ("connected", "names another tunnel", _swap('"right": "molehill0"', '"right": "molehill1"', _c("CTD-1"), _IN)),
    ("connected", "lets the tunnel speak to guests unasked", _swap(_STATE + _REPLY, "", _c("FWD-1"), _FWD)),
    ("connected", "lets the tunnel speak to the LAN unasked", _without(_c("FWD-1"), "reject", _FWD)),
    ("connected", "lets pieces pass", _without(_c("fragment"), _OUT)),
    ("connected", "lets pieces of IPv6 pass", _without(_c("fragment"), _IN, "exthdr")),
    ("connected", "does not guard the tunnel's address", _without(_c("CVE-2019-14899"))),
    ("connected", "guards the tunnel's IPv4 address alone", _without(_c("CVE-2019-14899"), '"ip6"')),
    ("connected", "blocks DNS over UDP alone", _swap('"right": {"set": [6, 17]}', '"right": 17', _c("CTD-2"), _OUT)),
    ("connected", "lets DNS out of every interface", _swap('"oifname"', '"iifname"', _c("DNS-1"), _OUT)),
    ("connected", "drops in silence", _swap('{"reject": {"type": "tcp reset"}}', '{"drop": null}', _c("P-0"), _OUT)),
    ("connected", "answers what comes in", _swap('{"drop": null}', '{"reject": null}', _c("P-0"), _IN)),
    ("connected", "accepts by default", _swap('{"drop": null}', '{"accept": null}', _c("P-0"), _IN)),
    ("connected", "swaps DHCP's ports", _swap('"sport"', '"dport"', _c("DHCP4-1"))),
    ("connected", "has no forward chain", lambda lines: [line for line in lines if '"forward"' not in line]),
    ("error", "opens the API to everybody", _swap(_m('{"meta": {"key": "skuid"}}', "0"), "", _c("API-1"))),
    ("connecting", "drops the block of the server behind the bridge", _without(_c("CON-1"), "reject", _OUT)),
    ("custom", "lets a local server speak unasked", _swap(_STATE + _REPLY, "", _c("DNS-2"), _IN)),
    ("custom", "asks a local server inside the tunnel", _swap(_OUTSIDE, "", _c("DNS-2"), _OUT)),
)

_PF: tuple[tuple[str, str, Text], ...] = (
    ("connected", "drops LO-1", _without("pass out", '"LO-1"')),
    ("connected", "drops DHCP4-2", _without('"DHCP4-2"')),
    ("error", "asks one DHCPv6 group alone", _swap("{ ff02::1:2, ff05::1:3 }", "ff02::1:2")),
    ("error", "takes DHCPv6 requests from anywhere", _swap("from fe80::/10", "from any", '"DHCP6-1"')),
    ("error", "lets another ICMPv6 code out", _swap("133 code 0", "133 code 1")),
    ("error", "takes a neighbour's advertisement for a redirect", _swap("icmp6-type 137", "icmp6-type 136")),
    ("connected", "lets tunnel and LAN before the block of DNS", _to_end(2, '"CTD-2"')),
    ("connected", "opens the first hop to everybody", _swap(" user root", "", '"CTD-3"')),
    ("connected", "opens the first hop to another user", _swap("user root", "user 501", '"CTD-3"')),
    ("connected", "takes TCP for the first hop", _swap("proto udp", "proto tcp", '"CTD-3"')),
    ("connected", "takes the next port", _swap("port 51820", "port 51821", '"CTD-3"')),
    ("connected", "keeps no state for the first hop", _swap("keep state", "no state", '"CTD-3"')),
    ("connected", "drops CON-2's block", _without('"CON-2"')),
    ("connected", "blocks the first hop inside the tunnel", _swap("on ! utun4 ", "", '"CON-2"')),
    ("connected", "widens 192.168/16 to /15", _swap("192.168.0.0/16", "192.168.0.0/15")),
    ("connected", "misses LAN-1 of IPv6", _without("pass out quick inet6", '"LAN-1"')),
    ("connected", "lets multicast in", _swap("pass out", "pass in", '"LAN-2"', "inet6")),
    ("connected", "names another tunnel", _swap("utun4", "utun5", "pass in", '"CTD-1"')),
    ("connected", "takes every interface for the tunnel", _swap("on utun4 ", "", "pass out", '"CTD-1"')),
    ("connected", "blocks DNS over UDP alone", _swap("proto { tcp, udp }", "proto udp", '"CTD-2"')),
    ("connected", "blocks DNS over IPv4 alone", _swap("quick proto", "quick inet proto", '"CTD-2"')),
    ("connected", "lets DNS to the gateway out of every interface", _swap("on utun4 ", "", '"DNS-1"')),
    ("connected", "blocks in silence", _swap("block return", "block drop", '"P-0"')),
    ("connected", "answers what comes in", _swap("block drop", "block return", '"P-0"')),
    ("connected", "has no last line", _without("block drop", '"P-0"')),
    ("connected", "keeps state of what LAN lets in", _swap("no state", "keep state", "pass in", '"LAN-1"')),
    ("connected", "goes on after the block of DNS", _swap("out quick", "out", '"CTD-2"')),
    ("error", "opens the API to everybody", _swap(" user root", "", '"API-1"')),
    ("connecting", "lets packets of the server in past the bridge", _without("block drop in", '"CON-1"')),
    ("custom", "asks a local server inside the tunnel", _swap("on ! utun4 ", "", '"DNS-2"', "192.168.1.53")),
    ("custom", "keeps no state for a local server", _swap("flags S/SA keep state", "no state", '"DNS-2"')),
)

# ---- WFP's filters ----

Filters = Callable[[FilterSet], FilterSet]


def _filters(
    change: Callable[[Filter], Filter | None], rule: str, sublayer: int | None = None, layer: Layer | None = None
) -> Filters:
    """Change the filters of a claim, in one sublayer (0: baseline, 1: dns), at one layer."""

    def apply(filters: FilterSet) -> FilterSet:
        def mine(candidate: Filter) -> bool:
            return (
                candidate.rule == rule
                and (sublayer is None or candidate.sublayer == filters.sublayers[sublayer].key)
                and layer in (None, candidate.layer)
            )

        changed = [change(f) if mine(f) else f for f in filters.filters]
        return replace(filters, filters=tuple(f for f in changed if f is not None))

    return apply


def _gone(candidate: Filter) -> None:
    return None


def _less(field: Field, value: object = None) -> Callable[[Filter], Filter]:
    """Without the conditions on a field, or without one of them."""
    return lambda f: replace(
        f, conditions=tuple(c for c in f.conditions if c.field is not field or value not in (None, c.value))
    )


def _other(field: Field, value: Any, match: Match | None = None) -> Callable[[Filter], Filter]:
    """Another value for a field's conditions."""
    return lambda f: replace(
        f,
        conditions=tuple(
            Condition(field, c.match if match is None else match, value) if c.field is field else c
            for c in f.conditions
        ),
    )


def _weigh(weight: int) -> Callable[[Filter], Filter]:
    return lambda f: replace(f, weight=weight)


def _act(action: Action) -> Callable[[Filter], Filter]:
    return lambda f: replace(f, action=action)


def _remote(network: str) -> Callable[[Filter], Filter]:
    return _other(Field.REMOTE_ADDRESS, ip_network(network))


_NOT_THE_TUNNEL = _other(Field.INTERFACE, "molehill0", Match.NOT_EQUAL)
_ANOTHER_TOOL = _other(Field.APP_ID, App.PROBLEM_REPORT)

_WFP: tuple[tuple[str, str, Filters], ...] = (
    ("connected", "drops LO-1", _filters(_gone, "LO-1", 0)),
    ("connected", "drops LO-1 for DNS", _filters(_gone, "LO-1", 1)),
    ("error", "drops DHCP4-1", _filters(_gone, "DHCP4-1")),
    ("connected", "drops NDP-7", _filters(_gone, "NDP-7")),
    ("error", "asks one DHCPv6 group alone", _filters(_less(Field.REMOTE_ADDRESS, ip_network("ff05::1:3")), "DHCP6-1")),
    ("error", "lets Neighbour Discovery of any code out", _filters(_less(Field.REMOTE_PORT), "NDP-4")),
    ("error", "takes another ICMPv6 type", _filters(_other(Field.LOCAL_PORT, 138), "NDP-3")),
    ("connected", "drops the block of DNS", _filters(_gone, "CTD-2", 1)),
    ("connected", "drops the block of DNS over IPv6", _filters(_gone, "CTD-2", 1, Layer.CONNECT_V6)),
    ("connected", "blocks DNS over UDP alone", _filters(_less(Field.PROTOCOL, 6), "CTD-2", 1)),
    ("connected", "does not hand DNS on", _filters(_act(Action.BLOCK), "CTD-2", 0)),
    ("connected", "lets DNS to the gateway out of every interface", _filters(_less(Field.INTERFACE), "DNS-1", 1)),
    ("connected", "opens the first hop to everybody", _filters(_less(Field.APP_ID), "CTD-3")),
    ("connected", "opens the first hop to the problem-report tool", _filters(_ANOTHER_TOOL, "CTD-3")),
    ("connected", "takes TCP for the first hop", _filters(_other(Field.PROTOCOL, 6), "CTD-3")),
    ("connected", "takes the next port", _filters(_other(Field.REMOTE_PORT, 51821), "CTD-3")),
    ("connected", "drops CON-2's block", _filters(_gone, "CON-2")),
    ("connected", "weighs CON-2's block less than LAN", _filters(_weigh(1), "CON-2")),
    ("connected", "blocks the first hop inside the tunnel", _filters(_less(Field.INTERFACE), "CON-2")),
    ("connected", "names another tunnel", _filters(_other(Field.INTERFACE, "molehill1"), "CTD-1")),
    ("connected", "takes what is not the tunnel for it", _filters(_NOT_THE_TUNNEL, "CTD-1")),
    ("connected", "widens LAN-1 to half of IPv6", _filters(_remote("8000::/1"), "LAN-1", 0, Layer.ACCEPT_V6)),
    ("connected", "narrows LAN-1 to 10/8", _filters(_remote("10.0.0.0/8"), "LAN-1", 0, Layer.CONNECT_V4)),
    ("connected", "misses LAN-1 of IPv6", _filters(_gone, "LAN-1", 0, Layer.CONNECT_V6)),
    ("connected", "looks at the wrong end", _filters(_less(Field.REMOTE_ADDRESS), "LAN-1", 0, Layer.ACCEPT_V4)),
    ("connected", "has no last filter for incoming flows", _filters(_gone, "P-0", 0, Layer.ACCEPT_V4)),
    ("connected", "forwards IPv6", _filters(_gone, "P-0", 0, Layer.FORWARD_V6)),
    ("connected", "permits by default", _filters(_act(Action.PERMIT), "P-0", 0, Layer.CONNECT_V6)),
    ("error", "opens the API to everybody", _filters(_less(Field.APP_ID), "API-1")),
    ("error", "opens the API to the service alone", _filters(_less(Field.APP_ID, App.PROBLEM_REPORT), "API-1")),
    ("connecting", "drops the block of the server behind the bridge", _filters(_gone, "CON-1", 0, Layer.CONNECT_V4)),
    ("custom", "asks public servers outside the tunnel", _filters(_NOT_THE_TUNNEL, "DNS-2")),
    ("custom", "asks custom servers on every interface", _filters(_less(Field.INTERFACE), "DNS-2", 1)),
)  # fmt: skip

MUTANTS: tuple[Mutant, ...] = (
    *(Mutant(REFERENCE, name, what, change) for name, what, change in _RULES),
    *(Mutant(NATIVE, name, what, change, of_rules=True) for name, what, change in _RULES),
    *(Mutant(NATIVE, "connecting", f"is blind to the {what}", _blind(i)) for i, what in enumerate(_NAMES)),
    *(Mutant(NATIVE, "error", f"goes one {_NAMES[i]} too far", _shifted(i, 1)) for i in (3, 4, 5, 8, 10, 11)),
    *(Mutant(NATIVE, "connecting", f"goes one {_NAMES[i]} too far", _shifted(i, n)) for i, n in ((6, 1), (9, 2))),
    *(Mutant(NATIVE, "connecting", f"accepts where rule {i} blocks", _flag(i, 1)) for i in (16, 17, 18, 19)),
    *(Mutant(NATIVE, "connecting", f"blocks where rule {i} accepts", _flag(i, 0)) for i in (0, 1, 5, 12)),
    *(Mutant(NFTABLES, name, what, _json(change)) for name, what, change in _NFTABLES),
    *(Mutant(PF, name, what, _conf(change)) for name, what, change in _PF),
    *(Mutant(WFP, name, what, change) for name, what, change in _WFP),
)  # fmt: skip


def hunt(number: int) -> tuple[str, str, str | None]:
    """(enforcer, what was broken, the packet that gives it away, if any). For a worker process."""
    mutant = MUTANTS[number]
    example = mutant.hunt()
    return mutant.enforcer.name, mutant.what, None if example is None else str(example)
