"""`apply`: puts a policy in force on this machine's nftables, in one transaction, and checks that it is there.

Order of events: render -> encode -> hand the batch to the kernel, which commits all of it or nothing -> read our table
back from there and compare it with what the document says, since a commit that succeeded is no proof (another program,
a fault of ours) -> sysctls. Any failure is a FirewallError (ERR-3); a refused document leaves the former rules as they
were.

Needs root (CAP_NET_ADMIN). May be called from any thread; acts in the calling thread's network namespace. Whoever does
it often keeps an `Access`, which belongs to one thread.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from engine.firewall.errors import FirewallError, refused
from engine.firewall.nftables import sysctl
from engine.firewall.nftables.encode import Batch, encode
from engine.firewall.nftables.kernel import Access, NftError, NftMissing, Table
from engine.firewall.nftables.render import FAMILY, TABLE, render, reset
from engine.policy import Hop, Platform, Policy, Protocol, Rule, State, Tunnel, rules_for


@dataclass(frozen=True)
class Loaded:
    """What was loaded, and our table as the kernel had it right afterwards."""

    batch: Batch
    table: Table | None


_TRIAL = Policy(  # asks the kernel for everything that any of our rules asks
    State.CONNECTING,
    allow_lan=True,
    peer=Hop(IPv4Address("192.0.2.1"), 1, Protocol.UDP),
    api=Hop(IPv6Address("2001:db8::1"), 443, Protocol.TCP),
    tunnel=Tunnel("mh0", (IPv4Address("10.0.0.1"), IPv6Address("fd00::1")), ()),
)


def missing(*, access: Access | None = None) -> list[str]:
    """What this machine lacks for the firewall, one sentence each; empty: nothing.

    One transaction adds a table that accepts everything, with every kind of rule that we have, and removes it again:
    the kernel has then looked at them all, and nothing of it was ever in force. Our own table is not touched.
    """
    commands = render(_TRIAL)["nftables"][1:]
    trial = json.loads(json.dumps(commands).replace(f'"{TABLE}"', f'"{TABLE}-trial"').replace("drop", "accept"))
    table = {"table": {"family": FAMILY, "name": f"{TABLE}-trial"}}
    try:
        with _opened(access) as opened:
            opened.run(encode({"nftables": [*trial, {"delete": table}]}))
    except NftError as error:
        return [f"the firewall cannot be used, nftables says: {error}"]
    return []


def apply(policy: Policy, *, access: Access | None = None) -> list[str]:
    """Put `policy` in force; returns warnings (a sysctl that could not be set), one sentence each.

    Raises FirewallError, ValueError for another platform's policy.
    """
    load(policy, access=access)
    return sysctl.apply(sysctl.settings_for(policy))


def load(policy: Policy, *, access: Access | None = None, former: Loaded | None = None) -> Loaded:
    """Put `policy` in force but for the sysctls; returns what is in force now. Raises as `apply`.

    `former`: what the last load returned. If the policy says the same, and the kernel still holds that, it is left.
    """
    batch, expected = _prepared(policy)
    with _opened(access) as opened:
        return _loaded(batch, expected, opened, former)


def _loaded(batch: Batch, expected: tuple[str, ...], access: Access, former: Loaded | None) -> Loaded:
    if former is not None and former.batch.data == batch.data and _is_there(former, access):
        return former
    try:
        access.run(batch)
    except NftError as error:
        raise refused("nftables", error, former=_rules_are_there(access)) from error
    try:
        table = access.read()
    except OSError as error:
        raise FirewallError(
            f"the rules were loaded but cannot be read back, traffic may be leaking: {error}", enforced=False
        ) from error
    loaded = _by_chain(table.outline) if table is not None else ()
    if loaded != expected:
        difference = next(
            (f"{want or 'nothing'} was sent, {have or 'nothing'} is there" for want, have in _pairs(expected, loaded)),
        )
        raise FirewallError(
            f"nftables does not hold the rules that were sent, traffic may be leaking: {difference}", enforced=False
        )
    return Loaded(batch, table)


def prepare(policy: Policy) -> None:
    """Make ready what a load of `policy` needs: it then waits for the kernel alone. ValueError: see `render`."""
    _prepared(policy)


def blocked(access: Access) -> dict[tuple[str, str], tuple[int, int]]:
    """Packets and bytes that the rules in force have dropped or rejected, by (chain, rule id). OSError."""
    counted = {}
    for name, count in access.counters().items():
        chain, _, rule = name.partition("/")
        counted[chain, rule] = count
    return counted


def remove(*, access: Access | None = None) -> None:
    """Remove our table and nothing else (DIS-1, EXIT-1); it need not be there. Raises FirewallError.

    Where there is no nftables there is no table.
    """
    try:
        with _opened(access) as opened:
            opened.run(encode(reset()))
            left = opened.read()
    except NftMissing:
        return
    except (NftError, OSError) as error:
        raise FirewallError(f"the firewall's table {TABLE} could not be removed: {error}", enforced=False) from error
    if left is not None:
        raise FirewallError(f"the firewall's table {TABLE} is still there: somebody puts it back", enforced=True)


@contextmanager
def _opened(access: Access | None) -> Iterator[Access]:
    """That one, or one for this time."""
    if access is not None:
        yield access
        return
    with Access() as once:
        yield once


@lru_cache(maxsize=32)
def _prepared(policy: Policy) -> tuple[Batch, tuple[str, ...]]:
    """The batch for a policy, and the outline of what it makes."""
    return _made(_Wanted(rules_for(policy), policy.tunnel, policy.platform, policy))


@dataclass(frozen=True)
class _Wanted:
    """All that a document depends on, and a policy that says so: Disconnecting has the one of the state it keeps."""

    rules: tuple[Rule, ...]
    tunnel: Tunnel | None
    platform: Platform
    policy: Policy = field(compare=False)


@lru_cache(maxsize=32)
def _made(wanted: _Wanted) -> tuple[Batch, tuple[str, ...]]:
    document = render(wanted.policy)
    return encode(document), outline(document)


def _is_there(loaded: Loaded, access: Access) -> bool:
    """Whether the kernel holds just that; in doubt it does not."""
    try:
        return access.read() == loaded.table
    except OSError:
        return False


def _rules_are_there(access: Access) -> bool:
    try:
        return access.read() is not None
    except OSError:
        return False


def outline(document: dict[str, Any]) -> tuple[str, ...]:
    """What must be the same in a document and in the kernel: the base chains, and their rules in order."""
    lines = []
    for command in document["nftables"]:
        added = command.get("add", {})
        if chain := added.get("chain"):
            lines.append(f"{chain['name']}: hook {chain['hook']} {chain['prio']}, policy {chain['policy']}")
        elif rule := added.get("rule"):
            verdict = [word for word in ("accept", "drop", "reject") for part in rule["expr"] if word in part]
            lines.append(f"{rule['chain']}: {rule.get('comment', '-')} {' '.join(verdict) or 'continue'}")
    return _by_chain(tuple(lines))


def _by_chain(lines: tuple[str, ...]) -> tuple[str, ...]:
    """The kernel lists chain by chain, a document is in the policy's order: order matters within a chain alone."""
    return tuple(sorted(lines, key=lambda line: line.partition(":")[0]))


def _pairs(expected: tuple[str, ...], loaded: tuple[str, ...]) -> list[tuple[str, str]]:
    length = max(len(expected), len(loaded))
    padded = [[*lines, *[""] * (length - len(lines))] for lines in (expected, loaded)]
    return [(want, have) for want, have in zip(*padded, strict=True) if want != have]
