"""The safety properties by themselves, for each enforcer, with endpoints of any value."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_address

import z3

from engine.firewall import wfp
from engine.policy import Platform, Policy, Protocol, State
from native.facts import Direction, Interface
from tests.proofs import safety
from tests.proofs.encode_wfp import wfp as encode_wfp
from tests.proofs.mutants import base
from tests.proofs.policies import CONCRETE, Case
from tests.proofs.prove import ENFORCERS, PACKET, ask, assumed, encoded

DESKTOPS = (Platform.LINUX, Platform.MACOS, Platform.WINDOWS)
BASES = ("connected", "custom", "connecting", "error")


def holds(name: str, policies: Callable[[Platform], list[Case]]) -> None:
    """The property is nowhere broken, and has something to say somewhere."""
    said = 0
    for platform in DESKTOPS:
        for case in policies(platform):
            for enforcer in ENFORCERS[platform]:
                artefact = enforcer.make(case.policy)
                bad = z3.simplify(safety.PROPERTIES[name](case, encoded(case, enforcer, artefact).accept))
                if z3.is_false(bad):
                    continue
                said += 1
                bad = z3.And(safety.scope(enforcer), bad)
                found = ask(case, enforcer, artefact, bad, name, lambda model: "blocked")
                assert found is None, found
    assert said


def related(claim: str, policies: Callable[[Platform], list[Case]]) -> None:
    said = 0
    for platform in DESKTOPS:
        for case in policies(platform):
            for enforcer in ENFORCERS[platform]:
                for named, other, kind in safety.relations(case):
                    if named == claim:
                        said += 1
                        found = safety.relate(case, enforcer, enforcer.make(case.policy), other, kind, claim)
                        assert found is None, found
    assert said


def every_base(platform: Platform) -> list[Case]:
    return [base(name, platform) for name in BASES]


def test_p0_nothing_comes_in_that_has_no_name() -> None:
    holds("P-0", every_base)


def test_ks1_nothing_leaves_outside_the_tunnel_but_by_a_named_exception() -> None:
    holds("KS-1", every_base)


def test_dns1_connected_asks_the_gateway_inside_the_tunnel_alone() -> None:
    holds("DNS-1", every_base)


def test_dns2_public_custom_servers_are_asked_inside_and_local_ones_outside_the_tunnel() -> None:
    holds("DNS-2", every_base)


def test_dns3_connecting_and_error_ask_nobody() -> None:
    holds("DNS-3", every_base)


def test_con2_only_the_process_that_makes_the_tunnel_reaches_the_first_hop() -> None:
    holds("CON-2", every_base)


def test_con1_with_a_bridge_nothing_goes_to_the_server() -> None:
    holds("CON-1", every_base)


def test_dns3_ctd2_lan1_allowing_the_lan_opens_no_dns() -> None:
    related("DNS before LAN", every_base)


def test_dis2_err1_always_require_vpn_is_errors_policy() -> None:
    def required(platform: Platform) -> list[Case]:
        case = base("error", platform)
        return [Case(replace(case.policy, state=State.DISCONNECTED, always_require_vpn=True), case.symbols)]

    related("DIS-2", required)


def test_dsc1_disconnecting_keeps_the_verdicts() -> None:
    def kept(platform: Platform) -> list[Case]:
        return [
            Case(replace(case.policy, state=State.DISCONNECTING, kept=case.policy.state), case.symbols)
            for case in every_base(platform)
        ]

    related("DSC-1", kept)


def test_api2_connected_knows_no_api_outside_the_tunnel() -> None:
    def with_api(platform: Platform) -> list[Case]:
        api = base("connecting", platform).policy.api
        case = base("connected", platform)
        return [Case(replace(case.policy, api=api), case.symbols)]

    related("API-2", with_api)


def test_ks1_con3_ctd1_connecting_to_connected_opens_nothing_outside_the_tunnel() -> None:
    related("KS-1 on connecting", every_base)


def test_boot1_the_persistent_filters_let_no_flow_through_in_or_out() -> None:
    case = Case(Policy(State.ERROR, Platform.WINDOWS), CONCRETE)
    accept = encode_wfp(wfp.persistent_filters(), PACKET, CONCRETE, None).accept
    solver = z3.SolverFor("QF_BV")
    solver.add(*assumed(case), accept, z3.Not(PACKET.goes(Direction.FORWARD)))
    assert solver.check() == z3.unsat


def test_what_must_pass_does_pass() -> None:
    """Else a policy that blocks everything would have every property (CON-1, CTD-1, CTD-2, DNS-1)."""
    case = base("connected", Platform.LINUX)
    gateway = ip_address("10.64.0.1")
    asks = z3.And(
        PACKET.goes(Direction.OUT), PACKET.iface_out == int(Interface.TUNNEL), PACKET.proto == 17,
        PACKET.dport == 53, PACKET.version(4), PACKET.dst4 == case.symbols.address(gateway), PACKET.fragment == 0,
    )  # fmt: skip
    hop = case.policy.peer
    assert hop is not None
    assert hop.protocol is Protocol.UDP
    makes = z3.And(
        PACKET.goes(Direction.OUT), PACKET.proto == 17, PACKET.version(4), PACKET.fragment == 0,
        PACKET.dst4 == case.symbols.address(hop.ip), PACKET.dport == case.symbols.port(hop.port),
        PACKET.mark == int.from_bytes(b"mole", "big"),
    )  # fmt: skip
    for enforcer in ENFORCERS[Platform.LINUX]:
        blocked = z3.Not(encoded(case, enforcer, enforcer.make(case.policy)).accept)
        for wanted in (asks, makes):
            assert ask(case, enforcer, enforcer.make(case.policy), z3.And(wanted, blocked), "", str) is None
