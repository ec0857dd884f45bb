"""The questions: is there a packet that an enforcer judges otherwise than the specification?

For each policy and enforcer one question to z3, "show me such a packet"; no answer is a proof. What a platform cannot
express is a named part of the question (`engine.firewall.assumptions`), and nothing is left out without a name:

* reference, native: whole packets and first fragments, verdict and answer alike. Later fragments (native): one that
  passes on its own passes only if every first fragment it can belong to would pass.
* nftables: whole packets, verdict and answer alike; `tunnel-address`: what is addressed to the tunnel from outside is
  judged as if LAN were not allowed; `reassembled`: a fragment never passes a hook but on loopback.
* pf: whole packets (`reassembled`); forwarded ones pass if they may come in and may go out (`forward-twice`).
* wfp: whole packets (`no-fragments`), verdicts alone (`no-answer`); `flows`: an answer passes if the specification lets
  it pass or lets pass what it answers, and for no other reason.

A counterexample is a packet and is judged again in plain code by the enforcer itself (`Counterexample.confirm`): if
that disagrees with the formula, the encoder is wrong, and that is an error of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Any

import z3

from engine.explain import nftables as nft_model
from engine.explain.judge import packet_of
from engine.explain.packet import packet_text
from engine.filter import compile_rules, evaluate
from engine.firewall import nftables as nft_backend
from engine.firewall import pf as pf_backend
from engine.firewall import wfp as wfp_backend
from engine.firewall.pf import evaluate as pf_model
from engine.firewall.wfp import evaluate as wfp_model
from engine.firewall.wfp.constants import Action
from engine.policy import IPAddress, Platform, Policy, rules_for
from native.facts import Direction, Facts, Fragment, Interface
from native.verdict import Answer, Program
from tests.proofs.encode_nftables import nftables
from tests.proofs.encode_pf import pf
from tests.proofs.encode_rules import native, native_later, reference
from tests.proofs.encode_wfp import wfp
from tests.proofs.packet import Packet, Symbols, Verdict
from tests.proofs.policies import Case
from tests.proofs.spec import specification, state_of

PACKET = Packet.fresh()
LATER_PROTO = z3.BitVec("later.proto", 8)


class EncoderError(AssertionError):
    """An encoder's formula and the enforcer itself disagree about a packet."""


@dataclass(frozen=True)
class Enforcer:
    """One enforcer: how its artefact is made of a policy, read as a formula, and run on one packet.

    `run` gives (accept, reject).
    """

    name: str
    make: Callable[[Policy], Any]
    encode: Callable[[Any, Packet, Symbols, str | None], Verdict]
    run: Callable[[Any, Facts, str | None], tuple[bool, bool]]


def _run_reference(rules: Any, facts: Facts, tunnel: str | None) -> tuple[bool, bool]:
    verdict = evaluate(rules, facts)
    return verdict.accept, verdict.answer is Answer.REJECT


def _run_native(code: Any, facts: Facts, tunnel: str | None) -> tuple[bool, bool]:
    verdict = Program(code).judge(facts)
    return verdict.accept, verdict.answer is Answer.REJECT


def _run_nftables(document: Any, facts: Facts, tunnel: str | None) -> tuple[bool, bool]:
    word, _ = nft_model.judge(document, facts, tunnel)
    return word == "accept", word == "reject"


def _run_pf(text: Any, facts: Facts, tunnel: str | None) -> tuple[bool, bool]:
    outcome, _ = pf_model.judge(pf_model.parse(text), packet_of(facts), tunnel)
    return outcome is pf_model.Outcome.PASS, outcome is pf_model.Outcome.RETURN


def _run_wfp(filters: Any, facts: Facts, tunnel: str | None) -> tuple[bool, bool]:
    action, _ = wfp_model.judge(filters, packet_of(facts), tunnel)
    return action is Action.PERMIT, False


REFERENCE = Enforcer("reference", rules_for, lambda rules, p, s, tunnel: reference(rules, p, s), _run_reference)
NATIVE = Enforcer(
    "native",
    lambda policy: compile_rules(rules_for(policy)),
    lambda code, p, s, tunnel: native(code, p, s),
    _run_native,
)
NFTABLES = Enforcer("nftables", nft_backend.render, nftables, _run_nftables)
PF = Enforcer("pf", pf_backend.render, pf, _run_pf)
WFP = Enforcer("wfp", wfp_backend.filters, wfp, _run_wfp)

ENFORCERS = {
    Platform.LINUX: (REFERENCE, NATIVE, NFTABLES),
    Platform.MACOS: (REFERENCE, NATIVE, PF),
    Platform.WINDOWS: (REFERENCE, NATIVE, WFP),
    Platform.ANDROID: (REFERENCE, NATIVE),
    Platform.IOS: (REFERENCE, NATIVE),
}


@dataclass(frozen=True)
class Counterexample:
    """A packet that shows a difference, or a property broken."""

    case: Case
    enforcer: Enforcer
    artefact: Any
    what: str
    facts: Facts
    policy: Policy  # the case's, with the endpoints that the model has
    values: dict[str, str]  # of symbols, where they are not the placeholders'
    wanted: str
    got: tuple[bool, bool]

    def __str__(self) -> str:
        word = "accept" if self.got[0] else "reject" if self.got[1] else "drop"
        values = ", ".join(f"{name} = {value}" for name, value in self.values.items())
        where = f"    where {values}\n" if values else ""
        return f"{packet_text(self.facts)}\n{where}    {self.enforcer.name}: {word}, {self.what}: {self.wanted}"

    def confirm(self) -> None:
        """Judge the packet in plain code. EncoderError: the enforcer itself does not do what the formula says."""
        if self.facts.fragment is not Fragment.WHOLE:
            return  # nftables' model of plain packets knows no fragments
        really = self.enforcer.run(self.artefact, self.facts, _tunnel(self.policy))
        if really != self.got:
            raise EncoderError(f"{self.enforcer.name} says {really}, its formula {self.got}: {packet_text(self.facts)}")


def _tunnel(policy: Policy) -> str | None:
    return policy.tunnel.name if policy.tunnel else None


def encoded(case: Case, enforcer: Enforcer, artefact: Any, packet: Packet = PACKET) -> Verdict:
    """The artefact as a formula."""
    return enforcer.encode(artefact, packet, case.symbols, _tunnel(case.policy))


def assumed(case: Case) -> list[Any]:
    """What every question takes for granted: a packet that can be, and endpoints that a policy can have."""
    terms = [PACKET.wellformed(), *case.symbols.conditions]
    if case.policy.tunnel is None:
        terms.append(PACKET.outside_tunnel())
    return terms


def differs(case: Case, enforcer: Enforcer, artefact: Any) -> Any:
    """The question: this enforcer does otherwise than the specification, beyond what has a name."""
    p, policy = PACKET, case.policy
    said, does = specification(policy, p, case.symbols), encoded(case, enforcer, artefact)
    whole = p.fragment == int(Fragment.WHOLE)
    apart = z3.Or(said.accept != does.accept, said.reject != does.reject)
    if enforcer.name == "reference":
        return z3.And(p.fragment != int(Fragment.LATER), apart)
    if enforcer.name == "native":
        return z3.Or(z3.And(p.fragment != int(Fragment.LATER), apart), _later_leaks(case, artefact, said))
    if enforcer.name == "nftables":
        guarded = tunnel_address(case)
        without_lan = specification(replace(policy, allow_lan=False), p, case.symbols)
        pieces = z3.BoolVal(False)
        if policy.blocks:
            looped = z3.Or(
                z3.And(p.goes(Direction.OUT), p.iface_out == int(Interface.LOOPBACK)),
                z3.And(p.goes(Direction.IN), p.iface_in == int(Interface.LOOPBACK)),
            )
            pieces = z3.And(z3.Not(whole), z3.Not(looped), z3.Or(does.accept, does.reject))
        return z3.Or(
            z3.And(whole, z3.Not(guarded), apart),
            z3.And(whole, guarded, z3.Or(does.reject, does.accept != without_lan.accept)),
            pieces,
        )
    forwarded = p.goes(Direction.FORWARD)
    if enforcer.name == "pf":
        comes, leaves = (specification(policy, p.seen_as(d), case.symbols) for d in (Direction.IN, Direction.OUT))
        twice = does.accept != z3.And(comes.accept, leaves.accept)
        return z3.And(whole, z3.If(forwarded, twice, apart))
    assert enforcer.name == "wfp"
    first = specification(policy, p.first_of_flow(), case.symbols)
    answer = z3.And(p.reply, z3.Not(forwarded))
    return z3.And(whole, z3.If(answer, does.accept != z3.Or(said.accept, first.accept), said.accept != does.accept))


def tunnel_address(case: Case) -> Any:
    """Assumption `tunnel-address`: a packet to the tunnel's own address that comes in outside the tunnel."""
    addresses = case.policy.tunnel.addresses if case.policy.tunnel else ()
    p = PACKET
    return z3.And(
        p.goes(Direction.IN), p.iface_in == int(Interface.OTHER),
        z3.Or([z3.And(p.version(a.version), p.destination(a.version) == case.symbols.address(a)) for a in addresses]),
    )  # fmt: skip


def _later_leaks(case: Case, code: Any, said: Verdict) -> Any:
    """PACKET is a first fragment that the specification blocks; a later one of it passes without it."""
    later = _later_of(PACKET)
    return z3.And(PACKET.fragment == int(Fragment.FIRST), z3.Not(said.accept), native_later(code, later, case.symbols))


def _later_of(packet: Packet) -> Packet:
    """A later fragment of the same datagram; in IPv6 what it claims of the protocol need not be true."""
    global _LATER
    if _LATER is None:
        no = z3.BoolVal(False)
        _LATER = replace(
            packet, fragment=z3.BitVecVal(int(Fragment.LATER), 2), has_ports=no, has_icmp=no,
            proto=z3.If(packet.v6, LATER_PROTO, packet.proto),
        )  # fmt: skip
    return _LATER


_LATER: Packet | None = None


def ask(
    case: Case,
    enforcer: Enforcer,
    artefact: Any,
    bad: Any,
    what: str,
    wanted: Callable[[z3.ModelRef], str],
    make: Callable[[Policy], Any] | None = None,
) -> Counterexample | None:
    """Ask for a packet (and endpoints) where `bad` holds. None: there is none, which is the proof.

    `make`: makes the artefact for a policy with the endpoints that were found, if not `enforcer.make`.
    """
    solver = z3.SolverFor("QF_BV")
    solver.add(*assumed(case), bad)
    result = solver.check()
    if result == z3.unsat:
        return None
    assert result == z3.sat, f"z3 gave up: {solver.reason_unknown()}"
    for wish in [*case.symbols.placeholders(), *PACKET.plainest()]:
        solver.push()
        solver.add(wish)
        if solver.check() != z3.sat:
            solver.pop()
    assert solver.check() == z3.sat
    model = solver.model()
    verdict = encoded(case, enforcer, artefact)
    got = tuple(z3.is_true(model.eval(term, model_completion=True)) for term in (verdict.accept, verdict.reject))
    policy, values = case.policy, {}
    for (version, value), term in case.symbols.addresses.items():
        found = model.eval(term, model_completion=True).as_long()
        if found != value:
            kind: type[IPv4Address] | type[IPv6Address] = IPv6Address if version == 6 else IPv4Address
            values[str(term)] = str(kind(found))
            policy = _with_address(policy, kind(value), kind(found))
    for value, term in case.symbols.ports.items():
        found = model.eval(term, model_completion=True).as_long()
        if found != value:
            values[str(term)] = str(found)
            policy = _with_port(policy, value, found)
    if values:
        artefact = (make or enforcer.make)(policy)
    example = Counterexample(
        case, enforcer, artefact, what, PACKET.facts(model), policy, values, wanted(model), (got[0], got[1])
    )
    example.confirm()
    return example


def _with_address(policy: Policy, old: IPAddress, new: IPAddress) -> Policy:
    """The policy with another address wherever this one stands."""

    def other(addresses: tuple[IPAddress, ...]) -> tuple[IPAddress, ...]:
        return tuple(new if address == old else address for address in addresses)

    hops = {role: getattr(policy, role) for role in ("peer", "bridge", "api")}
    moved = {role: replace(hop, ip=new) for role, hop in hops.items() if hop and hop.ip == old}
    tunnel = policy.tunnel
    if tunnel is not None:
        tunnel = replace(tunnel, addresses=other(tunnel.addresses), gateways=other(tunnel.gateways))
    return replace(policy, tunnel=tunnel, dns=other(policy.dns), **moved)


def _with_port(policy: Policy, old: int, new: int) -> Policy:
    hops = {role: getattr(policy, role) for role in ("peer", "bridge", "api")}
    return replace(policy, **{role: replace(hop, port=new) for role, hop in hops.items() if hop and hop.port == old})


def compare(
    case: Case, enforcer: Enforcer, artefact: Any, make: Callable[[Policy], Any] | None = None
) -> Counterexample | None:
    """A packet on which the enforcer and the specification differ; None: proven equal."""
    said = specification(case.policy, PACKET, case.symbols)

    def wanted(model: z3.ModelRef) -> str:
        accept, reject = (z3.is_true(model.eval(t, model_completion=True)) for t in (said.accept, said.reject))
        return "accept" if accept else "reject" if reject else "drop"

    return ask(case, enforcer, artefact, differs(case, enforcer, artefact), "the document", wanted, make)


def question(case: Case, enforcer: Enforcer, artefact: Any) -> tuple[object, ...]:
    """What a comparison depends on: policies with the same question share its proof.

    The artefact word for word, and what of the policy the specification speaks of.
    """
    policy = case.policy
    text = json.dumps(artefact, sort_keys=True) if isinstance(artefact, dict) else artefact
    mobile_blocks = policy.platform is Platform.ANDROID and policy.state.value != "connected"
    state = state_of(policy)
    mobile = policy.platform.mobile  # where neither the first hop nor the API is spoken of
    hops = (policy.peer, policy.bridge) if state in ("connecting", "connected") and not mobile else ()
    return (
        enforcer.name, text, policy.platform, state, mobile_blocks, policy.ios_blocking, policy.allow_lan, hops,
        None if state == "connected" or mobile else policy.api, policy.tunnel, policy.tun_only, policy.dns,
        id(case.symbols),
    )  # fmt: skip
