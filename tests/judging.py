"""Packets in one line, judged by the compiled program and the evaluator at once: `says(policy, out(...))`."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from engine.filter import compile_policy, evaluate
from engine.policy import Hop, Policy, Protocol, State, Tunnel
from native.facts import Direction, Facts, Interface
from native.verdict import Answer, Program

TCP, UDP, ICMP, ICMPV6, GRE = 6, 17, 1, 58, 47
LO, TUN, OTHER = Interface.LOOPBACK, Interface.TUNNEL, Interface.OTHER

RELAY = Hop(ip_address("198.51.100.7"), 51820, Protocol.UDP)
RELAY6 = Hop(ip_address("2001:db8:77::7"), 51820, Protocol.UDP)
BRIDGE = Hop(ip_address("203.0.113.9"), 443, Protocol.TCP)
API = Hop(ip_address("192.0.2.80"), 443, Protocol.TCP)
GATEWAY, GATEWAY6 = "10.64.0.1", "fc00:bbbb::1"
TUNNEL = Tunnel(
    "wg0",
    (ip_address("10.64.0.2"), ip_address("fc00:bbbb::2")),
    (ip_address(GATEWAY), ip_address(GATEWAY6)),
)
HERE, HERE6, LINK6 = "192.168.1.5", "2001:db8:5::5", "fe80::5"
THERE, THERE6 = "93.184.216.34", "2606:2800::1"


def policy(state: State, **settings) -> Policy:
    """A policy with everything that a state may use: relay, API, tunnel; `settings` change it."""
    usual = {"peer": RELAY, "api": API, "tunnel": TUNNEL}
    return Policy(state, **(usual | settings))


DISCONNECTED = policy(State.DISCONNECTED)
LOCKED = policy(State.DISCONNECTED, always_require_vpn=True)
CONNECTING = policy(State.CONNECTING)
CONNECTED = policy(State.CONNECTED)
ERROR = policy(State.ERROR)
BLOCKING = (CONNECTING, CONNECTED, ERROR, LOCKED)


def packet(direction: Direction, iface_in, iface_out, proto, src, dst, sport=None, dport=None, icmp=None, **sender):
    """A whole packet; `icmp` is (type, code); `sender`: mark, uid, app, reply."""
    source, destination = ip_address(src), ip_address(dst)
    assert isinstance(source, IPv4Address | IPv6Address)
    return Facts(
        source.version, proto, source, destination, sport, dport, *(icmp or (None, None)),
        direction=direction, iface_in=iface_in, iface_out=iface_out, **sender,
    )  # fmt: skip


def out(proto, src, dst, sport=None, dport=None, *, via=OTHER, **more):
    """A packet that leaves through `via`."""
    return packet(Direction.OUT, OTHER, via, proto, src, dst, sport, dport, **more)


def into(proto, src, dst, sport=None, dport=None, *, via=OTHER, **more):
    """A packet that arrives through `via`."""
    return packet(Direction.IN, via, OTHER, proto, src, dst, sport, dport, **more)


def forward(iface_in, iface_out, proto, src, dst, sport=None, dport=None, **more):
    """A packet that passes from one interface to another."""
    return packet(Direction.FORWARD, iface_in, iface_out, proto, src, dst, sport, dport, **more)


def says(what: Policy, facts: Facts) -> str:
    """The verdict and the rule's id: "accept LO-1", "reject P-0", "drop P-0" (silently)."""
    compiled = compile_policy(what)
    verdict = Program(compiled.code).judge(facts)
    assert verdict == evaluate(compiled.rules, facts)
    word = "accept" if verdict.accept else "reject" if verdict.answer is Answer.REJECT else "drop"
    return f"{word} {compiled.ids[verdict.rule]}"
