"""The policies of the golden files: one for each state and setting that changes what is rendered.

`python -m tests.unit.firewall.golden` writes the files anew; the difference is then for a person to read.
"""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from engine.firewall import nftables
from engine.policy import Hop, Platform, Policy, Protocol, State, Tunnel

DIRECTORY = Path(__file__).resolve().parents[2] / "vectors" / "golden"

_PEER = Hop(ip_address("198.51.100.7"), 51820, Protocol.UDP)
_BRIDGE = Hop(ip_address("203.0.113.9"), 443, Protocol.TCP)
_API = Hop(ip_address("192.0.2.80"), 443, Protocol.TCP)
_TUNNEL = Tunnel(
    "molehill0",
    (ip_address("10.64.0.2"), ip_address("fc00:bbbb::2")),
    (ip_address("10.64.0.1"), ip_address("fc00:bbbb::1")),
)

POLICIES = {
    "disconnected": Policy(State.DISCONNECTED),
    "disconnected-required": Policy(State.DISCONNECTED, always_require_vpn=True, api=_API),
    "connecting": Policy(State.CONNECTING, peer=_PEER, api=_API),
    "connecting-tunnel-lan": Policy(State.CONNECTING, peer=_PEER, api=_API, tunnel=_TUNNEL, allow_lan=True),
    "connecting-bridge": Policy(State.CONNECTING, peer=_PEER, bridge=_BRIDGE, tunnel=_TUNNEL),
    "connected": Policy(State.CONNECTED, peer=_PEER, api=_API, tunnel=_TUNNEL),
    "connected-lan": Policy(State.CONNECTED, peer=_PEER, tunnel=_TUNNEL, allow_lan=True),
    "connected-custom-dns": Policy(
        State.CONNECTED, peer=_PEER, tunnel=_TUNNEL, allow_lan=True,
        dns=(ip_address("192.168.1.53"), ip_address("1.1.1.1"), ip_address("2606:4700:4700::1111")),
    ),
    "connected-six": Policy(
        State.CONNECTED, peer=Hop(ip_address("2001:db8::7"), 53, Protocol.UDP), tunnel=_TUNNEL, allow_lan=True
    ),
    "disconnecting": Policy(State.DISCONNECTING, kept=State.CONNECTED, peer=_PEER, tunnel=_TUNNEL),
    "error": Policy(State.ERROR),
    "error-lan-api": Policy(State.ERROR, api=_API, allow_lan=True),
}  # fmt: skip


def rendered(name: str) -> dict[str, str]:
    """The artefacts of one policy, by file name."""
    policy = POLICIES[name]
    document = nftables.render(replace(policy, platform=Platform.LINUX))
    lines = ",\n".join(json.dumps(command) for command in document["nftables"])  # one command a line, to be read
    return {f"{name}.nftables.json": f'{{"nftables": [\n{lines}\n]}}\n'}


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name in POLICIES:
        for file, text in rendered(name).items():
            (DIRECTORY / file).write_text(text)


if __name__ == "__main__":
    main()
