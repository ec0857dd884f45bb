"""The policies of the golden files: one for each state and setting that changes what is rendered.

`python -m tests.unit.firewall.golden` writes the files anew; the difference is then for a person to read.
"""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from engine.firewall import nftables, pf, wfp
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


def for_platform(name: str, platform: Platform) -> Policy:
    """A golden policy on another platform, its tunnel named as that platform does."""
    policy = replace(POLICIES[name], platform=platform)
    if platform is Platform.MACOS and policy.tunnel:
        policy = replace(policy, tunnel=replace(policy.tunnel, name="utun4"))
    return policy


def rendered(name: str) -> dict[str, str]:
    """The artefacts of one policy, by file name."""
    document = nftables.render(for_platform(name, Platform.LINUX))
    windows = wfp.to_json(wfp.filters(for_platform(name, Platform.WINDOWS)))
    return {
        f"{name}.nftables.json": f'{{"nftables": [\n{_lines(document["nftables"])}\n]}}\n',
        f"{name}.pf.conf": pf.render(for_platform(name, Platform.MACOS)),
        f"{name}.wfp.json": "{"
        + ",\n".join(f'"{kind}": [\n{_lines(objects)}\n]' for kind, objects in windows.items())
        + "}\n",
    }


def _lines(objects: list[object]) -> str:
    """JSON with one object a line, to be read."""
    return ",\n".join(json.dumps(it) for it in objects)


def main() -> None:
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    for name in POLICIES:
        for file, text in rendered(name).items():
            (DIRECTORY / file).write_text(text)


if __name__ == "__main__":
    main()
