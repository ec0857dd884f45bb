"""`filters`: a policy as the set of WFP filters that enforces it, as data; `persistent_filters` for BOOT-1.

WFP judges flows, at the ALE layers: an outgoing one at AUTH_CONNECT, an incoming one at AUTH_RECV_ACCEPT; what
answers an authorized flow passes with it, so the policy's reply rules need no filter. In a sublayer the matching filter
of the greatest weight decides; then the next sublayer is asked; a block in any of them is final. So:

* **baseline** (weight 0xFFFF): every rule of `rules_for` in its order, as falling weights. In the place of the DNS
  rules stands one permit that hands all DNS on to the next sublayer.
* **dns** (weight 0xFFFE): what the same rules say of TCP and UDP to port 53, up to the block of all other DNS. Nothing
  but DNS matches here, and no permit of the baseline, LAN or tunnel, can lift what is blocked here.

Conditions on the same field are alternatives, on different fields all must hold. LO-1 comes first in both sublayers,
so that "an interface that is neither loopback nor the tunnel" is "not the tunnel" below it. Forwarded packets never
reach the ALE layers: P-0 blocks them at IPFORWARD (FWD-1 permits forwarding on Linux alone).

References: "Filter Arbitration", "ALE Layers", "Filtering Condition Flags" (Microsoft, Windows Filtering Platform).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid5

from engine.firewall.networks import of_version
from engine.firewall.wfp.constants import (
    IS_LOOPBACK,
    PERSISTENT_PROVIDER,
    PERSISTENT_SUBLAYER,
    PROVIDER,
    SUBLAYER_BASELINE,
    SUBLAYER_DNS,
    Action,
    Field,
    FilterFlag,
    Layer,
    Match,
)
from engine.policy import App, Direction, Interface, IPNetwork, Platform, Policy, Rule, rules_for
from engine.policy.nets import DNS_PORT, ICMPV6, TCP, UDP

_ALE = {
    (Direction.OUT, 4): Layer.CONNECT_V4,
    (Direction.OUT, 6): Layer.CONNECT_V6,
    (Direction.IN, 4): Layer.ACCEPT_V4,
    (Direction.IN, 6): Layer.ACCEPT_V6,
}


@dataclass(frozen=True)
class Provider:
    """Whose objects they are."""

    key: UUID
    name: str
    persistent: bool = False


@dataclass(frozen=True)
class Sublayer:
    """A sublayer; the greater weight is asked first."""

    key: UUID
    name: str
    weight: int
    provider: UUID
    persistent: bool = False


@dataclass(frozen=True)
class Condition:
    """One condition. `value`: a network; a number (port, protocol, flags, ICMP type or code); an interface's name,
    which the applier turns into its LUID; or an App, which it turns into the app id of an executable."""

    field: Field
    match: Match
    value: IPNetwork | int | str | App


@dataclass(frozen=True)
class Filter:
    """One filter. `rule` is the id of the claim; `weight`, 64 bits: the greatest that matches decides."""

    key: UUID
    name: str
    rule: str
    layer: Layer
    sublayer: UUID
    weight: int
    action: Action
    conditions: tuple[Condition, ...] = ()
    flags: FilterFlag = FilterFlag.NONE


@dataclass(frozen=True)
class FilterSet:
    """Everything that is put in force in one transaction."""

    providers: tuple[Provider, ...]
    sublayers: tuple[Sublayer, ...]
    filters: tuple[Filter, ...]


def filters(policy: Policy) -> FilterSet:
    """The filter set of a policy; Disconnected has none at all (DIS-1). ValueError: another platform's policy."""
    if policy.platform is not Platform.WINDOWS:
        raise ValueError(f"WFP is the firewall of Windows, this policy is for {policy.platform}")
    if not policy.blocks:
        return FilterSet((), (), ())
    rules = [rule for rule in rules_for(policy) if not rule.reply]
    tunnel = policy.tunnel.name if policy.tunnel else None
    last_dns = max(index for index, rule in enumerate(rules) if _about_dns(rule))
    first_dns = min(index for index, rule in enumerate(rules) if _about_dns(rule))
    hand_on = Rule(
        rules[last_dns].id, "DNS, decided in the sublayer dns", accept=True, directions=(Direction.OUT,),
        protocols=(TCP, UDP), destination_port=DNS_PORT,
    )  # fmt: skip
    baseline = [*rules[:first_dns], hand_on, *rules[last_dns + 1 :]]
    dns = [narrowed for rule in rules[: last_dns + 1] if (narrowed := _narrowed_to_dns(rule)) is not None]
    return FilterSet(
        (Provider(PROVIDER, "molehill"),),
        (
            Sublayer(SUBLAYER_BASELINE, "molehill baseline", 0xFFFF, PROVIDER),
            Sublayer(SUBLAYER_DNS, "molehill dns", 0xFFFE, PROVIDER),
        ),
        (*_sublayer(SUBLAYER_BASELINE, "baseline", baseline, tunnel), *_sublayer(SUBLAYER_DNS, "dns", dns, tunnel)),
    )


def persistent_filters() -> FilterSet:
    """What blocks while no service runs (BOOT-1): boot-time filters first, persistent ones once the engine is up.

    Without any exception, not even loopback or DHCP: nothing else stands between the machine and a leak.
    """
    kinds = (("boot", FilterFlag.BOOTTIME), ("persistent", FilterFlag.PERSISTENT))
    return FilterSet(
        (Provider(PERSISTENT_PROVIDER, "molehill persistent", persistent=True),),
        (Sublayer(PERSISTENT_SUBLAYER, "molehill persistent", 0xFFFF, PERSISTENT_PROVIDER, persistent=True),),
        tuple(
            Filter(
                uuid5(PERSISTENT_PROVIDER, f"{kind} {layer.name}"), f"molehill {kind} {layer.name}", "BOOT-1", layer,
                PERSISTENT_SUBLAYER, 1, Action.BLOCK, flags=flag,
            )
            for kind, flag in kinds
            for layer in _ALE.values()
        ),
    )  # fmt: skip


def to_json(filter_set: FilterSet) -> dict[str, Any]:
    """The set as plain JSON values, for people and golden files: names instead of GUIDs where there are any."""
    sublayers = {sublayer.key: sublayer.name for sublayer in filter_set.sublayers}
    return {
        "providers": [{"key": str(p.key), "name": p.name, "persistent": p.persistent} for p in filter_set.providers],
        "sublayers": [
            {"key": str(s.key), "name": s.name, "weight": s.weight, "persistent": s.persistent}
            for s in filter_set.sublayers
        ],
        "filters": [
            {
                "rule": f.rule,
                "sublayer": sublayers[f.sublayer],
                "layer": f.layer.name,
                "weight": f.weight,
                "action": f.action.name,
                "conditions": [[c.field.name, c.match.name, _plain(c.value)] for c in f.conditions],
                "flags": [flag.name for flag in f.flags],
                "key": str(f.key),
            }
            for f in filter_set.filters
        ],
    }


def _plain(value: IPNetwork | int | str | App) -> int | str:
    return value if isinstance(value, int | str) else str(value)


def _about_dns(rule: Rule) -> bool:
    """The DNS rules of `rules_for`; a first hop or an API that happens to listen on port 53 is none of them."""
    return rule.destination_port == DNS_PORT and rule.protocols == (TCP, UDP)


def _narrowed_to_dns(rule: Rule) -> Rule | None:
    """What a rule says of outgoing TCP and UDP to port 53; None: nothing."""
    protocols = tuple(p for p in (TCP, UDP) if not rule.protocols or p in rule.protocols)
    other_port = rule.destination_port not in (None, DNS_PORT)
    if Direction.OUT not in rule.directions or not protocols or other_port:
        return None
    return Rule(
        rule.id, rule.what, rule.accept, directions=(Direction.OUT,), interfaces=rule.interfaces,
        version=rule.version, protocols=protocols, sources=rule.sources, destinations=rule.destinations,
        source_port=rule.source_port, destination_port=DNS_PORT, apps=rule.apps,
    )  # fmt: skip


def _sublayer(key: UUID, name: str, rules: list[Rule], tunnel: str | None) -> Iterator[Filter]:
    for index, rule in enumerate(rules):
        weight = len(rules) - index
        for layer, conditions in _ways(rule, tunnel):
            title = f"molehill {name} {index} {rule.id} {layer.name}"
            yield Filter(
                uuid5(key, title), title, rule.id, layer, key, weight,
                Action.PERMIT if rule.accept else Action.BLOCK, tuple(conditions),
                FilterFlag.NONE if rule.accept else FilterFlag.CLEAR_ACTION_RIGHT,
            )  # fmt: skip


def _ways(rule: Rule, tunnel: str | None) -> Iterator[tuple[Layer, list[Condition]]]:
    """A rule as layers and conditions: one for each direction and IP version that can match."""
    if rule.mark is not None or rule.uid is not None:
        raise ValueError(f"{rule.id}: WFP knows no marks and no user ids")
    if rule.forward:  # P-0 alone: on Windows no rule permits forwarding
        if rule.accept:
            raise ValueError(f"{rule.id}: forwarding is never permitted on Windows")
        yield Layer.FORWARD_V4, []
        yield Layer.FORWARD_V6, []
    interfaces = _interfaces(rule, tunnel)
    if interfaces is None:
        return
    for (direction, version), layer in _ALE.items():
        if direction not in rule.directions or rule.version not in (None, version):
            continue
        sources, destinations = of_version(rule.sources, version), of_version(rule.destinations, version)
        if bool(sources) != bool(rule.sources) or bool(destinations) != bool(rule.destinations):
            continue
        if rule.icmp is not None and version == 4:
            continue  # the ICMP rules are of ICMPv6
        out = direction is Direction.OUT
        local, remote = (sources, destinations) if out else (destinations, sources)
        ports = (rule.source_port, rule.destination_port)
        local_port, remote_port = ports if out else ports[::-1]
        yield (
            layer,
            [
                *interfaces,
                *_equal(Field.PROTOCOL, rule.protocols),
                *_equal(Field.LOCAL_ADDRESS, local),
                *_equal(Field.REMOTE_ADDRESS, remote),
                *_equal(Field.LOCAL_PORT, [] if local_port is None else [local_port]),
                *_equal(Field.REMOTE_PORT, [] if remote_port is None else [remote_port]),
                *_icmp(rule),
                *_equal(Field.APP_ID, rule.apps),
            ],
        )


def _interfaces(rule: Rule, tunnel: str | None) -> list[Condition] | None:
    """The interface's condition; None: the rule speaks of a tunnel that does not exist."""
    if not rule.interfaces:
        return []
    (interface,) = rule.interfaces
    if interface is Interface.LOOPBACK:
        return [Condition(Field.FLAGS, Match.FLAGS_ALL_SET, IS_LOOPBACK)]
    if interface is Interface.OTHER:
        return [] if tunnel is None else [Condition(Field.INTERFACE, Match.NOT_EQUAL, tunnel)]
    return None if tunnel is None else [Condition(Field.INTERFACE, Match.EQUAL, tunnel)]


def _icmp(rule: Rule) -> list[Condition]:
    """At the ALE layers ICMP's type and code stand where ports do (FWPM_CONDITION_ICMP_TYPE, _CODE)."""
    if rule.icmp is None:
        return []
    assert rule.protocols == (ICMPV6,)
    return [*_equal(Field.LOCAL_PORT, rule.icmp[:1]), *_equal(Field.REMOTE_PORT, rule.icmp[1:])]


def _equal(field: Field, values: Iterable[IPNetwork | int | App]) -> list[Condition]:
    return [Condition(field, Match.EQUAL, value) for value in values]
