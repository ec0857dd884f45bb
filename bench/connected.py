"""The policy that packets are judged by in the benchmarks: Connected with everything in it that makes rules."""

from ipaddress import ip_address

from engine.policy import Hop, Policy, Protocol, State, Tunnel

CONNECTED = Policy(
    State.CONNECTED,
    allow_lan=True,
    peer=Hop(ip_address("198.51.100.7"), 51820, Protocol.UDP),
    bridge=Hop(ip_address("203.0.113.9"), 443, Protocol.TCP),
    api=Hop(ip_address("192.0.2.80"), 443, Protocol.TCP),
    tunnel=Tunnel(
        "wg0",
        (ip_address("10.64.0.2"), ip_address("fc00:bbbb::2")),
        (ip_address("10.64.0.1"), ip_address("fc00:bbbb::1")),
    ),
    dns=(ip_address("9.9.9.9"), ip_address("2620:fe::fe"), ip_address("192.168.1.53")),
)
