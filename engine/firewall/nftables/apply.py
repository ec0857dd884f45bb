"""`apply`: puts a policy in force on this machine's nftables, in one transaction, and checks that it is there.

Order of events: render -> hand the document to libnftables, which commits all of it or nothing -> list our table
and compare it with what was sent, since a commit that succeeded is no proof (a kernel without a family, another
program) -> sysctls. Any failure is a FirewallError (ERR-3); a refused document leaves the former rules in force.

Needs root (CAP_NET_ADMIN). May be called from any thread; acts in the calling thread's network namespace.
"""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv6Address
from typing import Any

from engine.firewall.errors import FirewallError, refused
from engine.firewall.nftables import libnftables, sysctl
from engine.firewall.nftables.libnftables import NftError, NftMissing
from engine.firewall.nftables.render import FAMILY, TABLE, render, reset
from engine.policy import Hop, Policy, Protocol, State, Tunnel

_TRIAL = Policy(  # asks the kernel for everything that any of our rules asks
    State.CONNECTING,
    allow_lan=True,
    peer=Hop(IPv4Address("192.0.2.1"), 1, Protocol.UDP),
    api=Hop(IPv6Address("2001:db8::1"), 443, Protocol.TCP),
    tunnel=Tunnel("mh0", (IPv4Address("10.0.0.1"), IPv6Address("fd00::1")), ()),
)


def missing(*, library: bool = True) -> list[str]:
    """What this machine lacks for the firewall, one sentence each; empty: nothing.

    One transaction adds a table that accepts everything, with every kind of rule that we have, and removes it again:
    the kernel has then looked at them all, and nothing of it was ever in force. Our own table is not touched.
    """
    commands = render(_TRIAL)["nftables"][1:]
    trial = json.loads(json.dumps(commands).replace(f'"{TABLE}"', f'"{TABLE}-trial"').replace("drop", "accept"))
    table = {"table": {"family": FAMILY, "name": f"{TABLE}-trial"}}
    try:
        libnftables.run(json.dumps({"nftables": [*trial, {"delete": table}]}), library=library)
    except NftError as error:
        return [f"the firewall cannot be used, nftables says: {error}"]
    return []


def apply(policy: Policy, *, counters: bool = False, library: bool = True, sysctls: bool = True) -> list[str]:
    """Put `policy` in force; returns warnings (a sysctl that could not be set), one sentence each.

    `library=False` uses the `nft` tool; `sysctls=False` leaves those to a caller who restores them.
    Raises FirewallError, ValueError for another platform's policy.
    """
    _load(render(policy, counters=counters), library=library)
    return sysctl.apply(sysctl.settings_for(policy)) if sysctls else []


def remove(*, library: bool = True) -> None:
    """Remove our table and nothing else (DIS-1, EXIT-1); it need not be there. Raises FirewallError.

    Where there is no nftables there is no table.
    """
    try:
        libnftables.run(json.dumps(reset()), library=library)
        left = _listed(library=library)
    except NftMissing:
        return
    except (NftError, ValueError) as error:
        raise FirewallError(f"the firewall's table {TABLE} could not be removed: {error}", enforced=False) from error
    if left:
        raise FirewallError(f"the firewall's table {TABLE} is still there: somebody puts it back", enforced=True)


def _load(document: dict[str, Any], *, library: bool) -> None:
    try:
        libnftables.run(json.dumps(document), library=library)
    except NftError as error:
        raise refused("nftables", error, former=_rules_are_there(library=library)) from error
    try:
        loaded = _listed(library=library)
    except (NftError, ValueError) as error:
        raise FirewallError(
            f"the rules were loaded but cannot be read back, traffic may be leaking: {error}", enforced=False
        ) from error
    expected = _outline(document["nftables"])
    if loaded != expected:
        difference = next(
            (f"{want or 'nothing'} was sent, {have or 'nothing'} is there" for want, have in _pairs(expected, loaded)),
        )
        raise FirewallError(
            f"nftables does not hold the rules that were sent, traffic may be leaking: {difference}", enforced=False
        )


def _rules_are_there(*, library: bool) -> bool:
    try:
        return bool(_listed(library=library))
    except (NftError, ValueError):
        return False


def _listed(*, library: bool) -> list[str]:
    """The outline of our table as the kernel has it; empty when there is none."""
    tables = json.loads(libnftables.run(_list({"tables": None}), library=library))["nftables"]
    if not any(_is_ours(entry.get("table", {})) for entry in tables):
        return []
    ours = {"table": {"family": FAMILY, "name": TABLE}}
    entries = json.loads(libnftables.run(_list(ours), library=library))["nftables"]
    return _outline([{"add": entry} for entry in entries])


def _list(what: dict[str, Any]) -> str:
    return json.dumps({"nftables": [{"list": what}]})


def _is_ours(table: dict[str, Any]) -> bool:
    return table.get("family") == FAMILY and table.get("name") == TABLE


def _outline(commands: list[dict[str, Any]]) -> list[str]:
    """What must be the same in a document and in the kernel: the base chains, and their rules in order."""
    outline = []
    for command in commands:
        added = command.get("add", {})
        if chain := added.get("chain"):
            outline.append(f"{chain['name']}: hook {chain['hook']} {chain['prio']}, policy {chain['policy']}")
        elif rule := added.get("rule"):
            verdict = [word for word in ("accept", "drop", "reject") for part in rule["expr"] if word in part]
            outline.append(f"{rule['chain']}: {rule.get('comment', '-')} {' '.join(verdict) or 'continue'}")
    # The kernel lists chain by chain, a document is in the policy's order: order matters within a chain alone.
    return sorted(outline, key=lambda line: line.partition(":")[0])


def _pairs(expected: list[str], loaded: list[str]) -> list[tuple[str, str]]:
    length = max(len(expected), len(loaded))
    padded = [[*lines, *[""] * (length - len(lines))] for lines in (expected, loaded)]
    return [(want, have) for want, have in zip(*padded, strict=True) if want != have]
