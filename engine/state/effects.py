"""What the tunnel state machine wants done: one small frozen class an effect.

The runner performs a batch in order. If an effect fails it drops the rest of the batch and hands the failure
back as an event; the machine answers with the batch that takes its place. That is why `Report` comes last: a
status is told only when all that it promises has been done.
"""

from __future__ import annotations

from dataclasses import dataclass

from engine.policy import IPAddress, Policy, State
from engine.state.events import Cause


@dataclass(frozen=True)
class Status:
    """What the user is told. `enforced` is False unless `policy` is in force; `failure` says why not."""

    state: State
    policy: Policy
    enforced: bool = True
    failure: Cause | None = None
    cause: Cause | None = None
    attempt: int = 0
    online: bool = True


@dataclass(frozen=True)
class ApplyPolicy:
    """Put this policy in force as one transaction (ATOM-1). On failure: `ApplyFailed`."""

    policy: Policy


@dataclass(frozen=True)
class OpenTun:
    """See to it that the device exists and captures everything; idempotent.

    Then `InterfaceUp`, or `ApplyFailed`: in the VPN-service model the capture is half of the enforcement.
    """


@dataclass(frozen=True)
class CloseTun:
    """Remove the device and all that captures traffic. On failure: `Fatal`."""


@dataclass(frozen=True)
class StartTunnel:
    """Begin attempt number `attempt`; `TunnelUp` within `timeout` seconds, or else `TunnelDown`.

    `pause`: seconds that must have passed since the last one began, so that failures follow each other slowly.
    """

    attempt: int
    timeout: float
    pause: float = 0.0


@dataclass(frozen=True)
class StopTunnel:
    """Stop the tunnel, erase its keys, keep the device; idempotent. Then always `TunnelClosed`."""


@dataclass(frozen=True)
class SetDns:
    """Let the system ask these servers. On failure: `Fatal`."""

    servers: tuple[IPAddress, ...]


@dataclass(frozen=True)
class SetMtu:
    """Let the tunnel device have this MTU, in bytes. On failure: `ApplyFailed`."""

    mtu: int


@dataclass(frozen=True)
class ResetDns:
    """Give the system its own servers back; idempotent."""


@dataclass(frozen=True)
class Report:
    """Tell the user."""

    status: Status


Effect = ApplyPolicy | OpenTun | CloseTun | StartTunnel | StopTunnel | SetDns | SetMtu | ResetDns | Report
