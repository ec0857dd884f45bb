"""What a session tells about itself: one frozen value, and the same as plain data for JSON. No secrets in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

from engine import state
from engine.policy import State
from engine.service.builder import Configuration
from engine.service.firewall import Blocked
from engine.tunnel.events import TunnelStatus
from engine.wg.keys import key_to_base64


@dataclass(frozen=True)
class SessionStatus:
    """The machine's status, since when (seconds since 1970) it is in this state, and why it is not connected yet."""

    machine: state.Status
    since: float
    problem: str = ""

    @property
    def state(self) -> State:
        """The state it is in."""
        return self.machine.state

    @property
    def blocks(self) -> bool:
        """Whether this is a state in which a policy is enforced."""
        return self.machine.policy.blocks

    def line(self) -> str:
        """One line for people."""
        text = self.machine.policy.describe()
        if self.problem:
            text += f"; {self.problem}"
        if self.machine.cause is not None:
            text += f"; because: {self.machine.cause}"
        if not self.machine.enforced:
            text += f"; NOT ENFORCED, TRAFFIC MAY BE LEAKING: {self.machine.failure}"
        return text


def as_data(
    status: SessionStatus,
    configuration: Configuration,
    tunnel: TunnelStatus | None,
    dns: str,
    verified_by: str,
    bridge_drops: Counter[str],
    blocked: tuple[Blocked, ...],
) -> dict[str, Any]:
    """Everything for `status --json`: times in seconds since 1970, sizes in bytes."""
    machine, server = status.machine, configuration.peer
    data: dict[str, Any] = {
        "session": configuration.session,
        "interface": configuration.interface,
        "profile": configuration.profile.name,
        "mode": configuration.mode,
        "state": str(machine.state),
        "since": status.since,
        "policy": machine.policy.describe(),
        "enforced": machine.enforced,
        "failure": str(machine.failure) if machine.failure is not None else None,
        "cause": str(machine.cause) if machine.cause is not None else None,
        "cause_kind": str(machine.cause.kind) if machine.cause is not None else None,
        "attempt": machine.attempt,
        "problem": status.problem or None,
        "online": machine.online,
        "verified_by": verified_by,
        "dns": dns,
        "cannot_block": [{"id": gap.id, "text": gap.text} for gap in configuration.cannot_block],
        "bridge": str(configuration.bridge) if configuration.bridge is not None else None,
        "mtu": configuration.mtu,
        "peers": [],
        "verdicts": {},
        "drops": dict(bridge_drops),
        "firewall_drops": [
            {"rule": it.rule, "direction": str(it.direction), "packets": it.packets, "bytes": it.bytes}
            for it in blocked
        ],
        "offloads": {},
    }
    if tunnel is not None:
        # With a bridge the datapath's end is the bridge's near one: no news for anybody.
        ends = {server.public_key: server.endpoint} if server is not None and configuration.bridge is not None else {}
        data["mtu"] = tunnel.mtu
        data["listen_port"] = tunnel.listen_port
        data["peers"] = [
            {
                "public_key": key_to_base64(peer.public_key),
                "endpoint": str(ends.get(peer.public_key) or peer.endpoint or "") or None,
                "last_handshake": peer.last_handshake_ns / 1e9 or None,
                "rx_bytes": peer.rx_bytes,
                "tx_bytes": peer.tx_bytes,
            }
            for peer in tunnel.peers
        ]
        data["verdicts"] = {
            count.rule: {"packets": count.packets, "bytes": count.bytes} for count in tunnel.verdicts if count.packets
        }
        data["drops"] = dict(+(bridge_drops + Counter({reason.word: n for reason, n in tunnel.drops.items()})))
        data["offloads"] = dict(tunnel.offloads)
    return data
