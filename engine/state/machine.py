"""The tunnel state machine: five states, events in, effects out. Pure: no clock, no I/O, no randomness.

Theory of operation
-------------------
`TABLE` is the whole machine. A row says: in this state, on this event, if this condition holds, change the
situation so, and go there. The first row that fits is taken; an event without a row is ignored in that state.
How a row goes (`How`) decides the effects:

    ENTER   go to `target`: ApplyPolicy(the target's policy), then the target's own entry effects, then Report
    REAPPLY stay: ApplyPolicy(the policy after the change), then Report
    NOTE    stay, and the policy stays as it is: what a failed apply left undone, then Report

So `ApplyPolicy` is the first effect of every transition, and no other effect runs unless it succeeded.

Three rules hold everywhere, and the tests hold the table to them:

1. Only an explicit `Disconnect` leads to Disconnected (KS-1). A lost tunnel, another server, a crash of the
   tunnel, being offline: each leads from one blocking policy to another.
2. Error is left only by `Disconnect`, or by a new attempt, which blocks as Error does and keeps telling the
   cause until it ends in Connected (ERR-2). Only "offline" starts that attempt by itself, when the device is
   online again.
3. A failed apply is told in every state (ERR-3): `enforced` is False from then until an apply succeeds. Out
   of Connecting and Connected it leads to Error, whose policy is the strictest there is. It is never retried
   in a loop: the next event that applies a policy tries again.

Disconnecting keeps the rules of the state it came from (DSC-1), with the facts of that moment; where it leads
is in `after`, which a new command may change until the tunnel has closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import Enum

from engine.policy import Policy, State, Tunnel
from engine.state.effects import (
    ApplyPolicy,
    CloseTun,
    Effect,
    OpenTun,
    Report,
    ResetDns,
    SetDns,
    StartTunnel,
    Status,
    StopTunnel,
)
from engine.state.events import (
    ApplyFailed,
    Cause,
    CauseKind,
    Connect,
    Disconnect,
    Event,
    Fatal,
    HandshakeGivenUp,
    InterfaceUp,
    Offline,
    Online,
    Settings,
    SettingsChanged,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)


class After(Enum):
    """Where Disconnecting leads once the tunnel has closed."""

    DISCONNECT = "disconnect"
    RECONNECT = "reconnect"
    BLOCK = "block"


class How(Enum):
    """Which effects a row has; see the theory of operation."""

    ENTER = "enter"
    REAPPLY = "re-apply"
    NOTE = "note"


@dataclass(frozen=True)
class Situation:
    """All that the machine remembers. `cause` outlives Error until Connected or Disconnected (ERR-2)."""

    state: State = State.DISCONNECTED
    settings: Settings = field(default_factory=Settings)
    interface: Tunnel | None = None
    attempt: int = 0
    online: bool = True
    after: After = After.DISCONNECT
    cause: Cause | None = None
    failure: Cause | None = None
    kept: Policy | None = None

    @property
    def policy(self) -> Policy:
        """The policy this situation calls for."""
        if self.state is State.DISCONNECTING and self.kept is not None:
            return self.kept
        settings = self.settings
        return Policy(
            state=self.state,
            platform=settings.platform,
            allow_lan=settings.allow_lan,
            always_require_vpn=settings.always_require_vpn,
            peer=settings.peer,
            bridge=settings.bridge,
            api=settings.api,
            tunnel=self.interface,
            dns=settings.dns,
            ios_blocking=settings.ios_blocking,
        )

    @property
    def status(self) -> Status:
        """What the user is told of it."""
        enforced = self.failure is None
        return Status(self.state, self.policy, enforced, self.failure, self.cause, self.attempt, self.online)


def establish_timeout(attempt: int) -> float:
    """Seconds that attempt number `attempt` (from 0) may take: 4, 8, then 15."""
    return min(15.0, 4.0 * 2.0 ** min(attempt, 2))


# Conditions: named in the table, so that the diagram can show them.

Condition = Callable[[Situation, Event], bool]

_CONDITIONS: dict[str, Condition] = {
    "": lambda s, e: True,
    "offline": lambda s, e: not s.online,
    "no peer": lambda s, e: s.settings.peer is None,
    "not enforced": lambda s, e: s.failure is not None,
    "always require VPN": lambda s, e: s.settings.always_require_vpn,
    "device up": lambda s, e: s.interface is not None,
    "same tunnel": lambda s, e: isinstance(e, SettingsChanged) and s.settings.same_tunnel(e.settings),
    "because offline": lambda s, e: s.cause is not None and s.cause.kind is CauseKind.OFFLINE,
    "then disconnect": lambda s, e: s.after is After.DISCONNECT,
    "then block": lambda s, e: s.after is After.BLOCK,
    "then reconnect, offline": lambda s, e: s.after is After.RECONNECT and not s.online,
    "then reconnect, no peer": lambda s, e: s.after is After.RECONNECT and s.settings.peer is None,
    "then reconnect": lambda s, e: s.after is After.RECONNECT,
}

# Changes: what a row does to the situation besides the state.

Change = Callable[[Situation, Event], Situation]


def _nothing(s: Situation, e: Event) -> Situation:
    return s


def _first_attempt(s: Situation, e: Event) -> Situation:
    return replace(s, attempt=0)


def _next_attempt(s: Situation, e: Event) -> Situation:
    return replace(s, attempt=s.attempt + 1)


def _blame(s: Situation, e: Event) -> Situation:
    assert isinstance(e, Fatal | ApplyFailed)
    return replace(s, cause=e.cause)


def _blame_offline(s: Situation, e: Event) -> Situation:
    return replace(s, cause=Cause(CauseKind.OFFLINE))


def _blame_no_peer(s: Situation, e: Event) -> Situation:
    return replace(s, cause=Cause(CauseKind.NO_PEER))


def _then_disconnect(s: Situation, e: Event) -> Situation:
    return replace(s, after=After.DISCONNECT)


def _then_reconnect(s: Situation, e: Event) -> Situation:
    return replace(s, after=After.RECONNECT)


def _then_block(s: Situation, e: Event) -> Situation:
    return replace(_blame(s, e), after=After.BLOCK)


def _take_settings(s: Situation, e: Event) -> Situation:
    assert isinstance(e, SettingsChanged)
    return replace(s, settings=e.settings)


def _take_settings_then_reconnect(s: Situation, e: Event) -> Situation:
    return replace(_take_settings(s, e), after=After.RECONNECT)


def _take_interface(s: Situation, e: Event) -> Situation:
    assert isinstance(e, InterfaceUp)
    return replace(s, interface=e.tunnel)


def _go_offline(s: Situation, e: Event) -> Situation:
    return replace(s, online=False)


def _go_offline_then_reconnect(s: Situation, e: Event) -> Situation:
    return replace(s, online=False, after=After.RECONNECT)


def _go_online(s: Situation, e: Event) -> Situation:
    return replace(s, online=True)


def _go_online_first_attempt(s: Situation, e: Event) -> Situation:
    return replace(s, online=True, attempt=0)


def _not_enforced(s: Situation, e: Event) -> Situation:
    assert isinstance(e, Fatal | ApplyFailed)
    return replace(s, failure=e.cause)


# The table.


@dataclass(frozen=True)
class Row:
    """In `source`, on `event`, if `when` holds: apply `change` and go to `target` as `how` says."""

    source: State
    event: type[Event]
    when: str
    target: State
    change: Change = _nothing
    how: How = How.ENTER


_D, _C, _U, _X, _E = (
    State.DISCONNECTED,
    State.CONNECTING,
    State.CONNECTED,
    State.DISCONNECTING,
    State.ERROR,
)

TABLE: tuple[Row, ...] = (
    # Disconnected: the user decides.
    Row(_D, Connect, "offline", _E, _blame_offline),
    Row(_D, Connect, "no peer", _E, _blame_no_peer),
    Row(_D, Connect, "", _C, _first_attempt),
    Row(_D, Disconnect, "not enforced", _D),
    Row(_D, SettingsChanged, "", _D, _take_settings),
    Row(_D, InterfaceUp, "always require VPN", _D, _take_interface, How.REAPPLY),
    Row(_D, Offline, "", _D, _go_offline, How.NOTE),
    Row(_D, Online, "", _D, _go_online, How.NOTE),
    Row(_D, ApplyFailed, "", _D, _not_enforced, How.NOTE),
    Row(_D, Fatal, "", _D, _not_enforced, How.NOTE),
    # Connecting: only the first hop, until the tunnel is verified.
    Row(_C, TunnelUp, "device up", _U, _first_attempt),
    Row(_C, TunnelDown, "", _C, _next_attempt),
    Row(_C, HandshakeGivenUp, "", _C, _next_attempt),
    Row(_C, InterfaceUp, "", _C, _take_interface, How.REAPPLY),
    Row(_C, Connect, "", _X, _then_reconnect),
    Row(_C, Disconnect, "", _X, _then_disconnect),
    Row(_C, Fatal, "", _X, _then_block),
    Row(_C, Offline, "", _X, _go_offline_then_reconnect),
    Row(_C, SettingsChanged, "same tunnel", _C, _take_settings, How.REAPPLY),
    Row(_C, SettingsChanged, "", _X, _take_settings_then_reconnect),
    Row(_C, ApplyFailed, "", _E, _blame),
    # Connected: verified, and watched.
    Row(_U, TunnelDown, "", _C, _first_attempt),
    Row(_U, HandshakeGivenUp, "", _C, _first_attempt),
    Row(_U, InterfaceUp, "", _U, _take_interface, How.REAPPLY),
    Row(_U, Connect, "", _X, _then_reconnect),
    Row(_U, Disconnect, "", _X, _then_disconnect),
    Row(_U, Fatal, "", _X, _then_block),
    Row(_U, Offline, "", _X, _go_offline_then_reconnect),
    Row(_U, SettingsChanged, "same tunnel", _U, _take_settings),
    Row(_U, SettingsChanged, "", _X, _take_settings_then_reconnect),
    Row(_U, ApplyFailed, "", _E, _blame),
    # Disconnecting: the old rules stay until the tunnel has closed; the last command says where to.
    Row(_X, TunnelClosed, "then disconnect", _D),
    Row(_X, TunnelClosed, "then block", _E),
    Row(_X, TunnelClosed, "then reconnect, offline", _E, _blame_offline),
    Row(_X, TunnelClosed, "then reconnect, no peer", _E, _blame_no_peer),
    Row(_X, TunnelClosed, "then reconnect", _C, _first_attempt),
    Row(_X, Connect, "", _X, _then_reconnect, How.NOTE),
    Row(_X, Disconnect, "", _X, _then_disconnect, How.NOTE),
    Row(_X, Fatal, "then reconnect", _X, _then_block, How.NOTE),
    Row(_X, SettingsChanged, "", _X, _take_settings, How.NOTE),
    Row(_X, Offline, "", _X, _go_offline, How.NOTE),
    Row(_X, Online, "", _X, _go_online, How.NOTE),
    Row(_X, ApplyFailed, "", _X, _not_enforced, How.NOTE),
    # Error: blocked, and the user knows why.
    Row(_E, Disconnect, "", _D),
    Row(_E, Connect, "offline", _E, _blame_offline, How.NOTE),
    Row(_E, Connect, "no peer", _E, _blame_no_peer, How.NOTE),
    Row(_E, Connect, "", _C, _first_attempt),
    Row(_E, Online, "because offline", _C, _go_online_first_attempt),
    Row(_E, Online, "", _E, _go_online, How.NOTE),
    Row(_E, Offline, "", _E, _go_offline, How.NOTE),
    Row(_E, SettingsChanged, "not enforced", _E, _take_settings),
    Row(_E, SettingsChanged, "", _E, _take_settings, How.REAPPLY),
    Row(_E, InterfaceUp, "", _E, _take_interface, How.REAPPLY),
    Row(_E, Fatal, "", _E, _blame, How.NOTE),
    Row(_E, ApplyFailed, "", _E, _not_enforced, How.NOTE),
)


def _entry(s: Situation) -> list[Effect]:
    """What entering the situation's state needs after its policy is in force."""
    match s.state:
        case State.DISCONNECTED:
            return [ResetDns(), OpenTun() if s.settings.always_require_vpn else CloseTun()]
        case State.CONNECTING:
            return [OpenTun(), StartTunnel(s.attempt, establish_timeout(s.attempt))]
        case State.CONNECTED:
            gateways = s.interface.gateways if s.interface is not None else ()
            return [SetDns(s.settings.dns or gateways)]
        case State.DISCONNECTING:
            return [ResetDns(), StopTunnel()]
        case State.ERROR:
            return [OpenTun(), StopTunnel()]


def _left_undone(s: Situation, event: Event) -> list[Effect]:
    """What a failed apply cut off and still has to be done; opening what the user asked to open goes on."""
    if not isinstance(event, ApplyFailed):
        return []
    if s.state is State.DISCONNECTED:
        return [ResetDns()] if s.settings.always_require_vpn else [ResetDns(), CloseTun()]
    return [StopTunnel()]


class Machine:
    """The machine at work. `handle` takes an event and returns the effects to perform, in order."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.situation = Situation(settings=settings or Settings())

    @property
    def state(self) -> State:
        """The state it is in."""
        return self.situation.state

    def handle(self, event: Event) -> tuple[Effect, ...]:
        """Take `event`; the effects are empty if it means nothing in this state."""
        before = self.situation
        row = next(
            (
                row
                for row in TABLE
                if row.source is before.state and isinstance(event, row.event) and _CONDITIONS[row.when](before, event)
            ),
            None,
        )
        if row is None:
            return ()
        after = replace(row.change(before, event), state=row.target)
        if row.how is How.NOTE:
            self.situation = after
            return (*_left_undone(after, event), Report(after.status))
        # A policy is about to be applied: it counts as in force unless ApplyFailed says otherwise.
        after = replace(after, failure=None)
        if after.state in (State.CONNECTED, State.DISCONNECTED):
            after = replace(after, cause=None)
        if row.how is How.ENTER and after.state is State.DISCONNECTING:
            after = replace(after, kept=replace(before.policy, state=State.DISCONNECTING, kept=before.state))
        if after.state is State.DISCONNECTED and not after.settings.always_require_vpn:
            after = replace(after, interface=None)
        self.situation = after
        entry = _entry(after) if row.how is How.ENTER else []
        return (ApplyPolicy(after.policy), *entry, Report(after.status))
