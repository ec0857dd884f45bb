"""The tunnel state machine's transition table, with the conditions and changes its rows are made of.

A row says: in this state, on this event, if this condition holds, change the situation so, and go there. The first
row that fits is taken; an event without a row is ignored in that state. See engine/state/machine.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from engine.policy import State
from engine.state.events import (
    ApplyFailed,
    Block,
    Cause,
    CauseKind,
    Connect,
    DeviceLost,
    Disconnect,
    Disturbed,
    Event,
    Fatal,
    HandshakeGivenUp,
    InterfaceUp,
    Offline,
    Online,
    PathMtu,
    Retry,
    SettingsChanged,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)
from engine.state.situation import After, Situation


class How(Enum):
    """Which effects a row has; see engine/state/machine.py."""

    ENTER = "enter"
    REAPPLY = "re-apply"
    NOTE = "note"


# Conditions: named in the table, so that the diagram can show them.

Condition = Callable[[Situation, Event], bool]

CONDITIONS: dict[str, Condition] = {
    "": lambda s, e: True,
    "offline": lambda s, e: not s.online,
    "no peer": lambda s, e: s.candidate.peer is None,
    "not enforced": lambda s, e: s.failure is not None,
    "always require VPN": lambda s, e: s.settings.always_require_vpn,
    "device up": lambda s, e: s.device,
    "same tunnel": lambda s, e: isinstance(e, SettingsChanged) and s.candidate in e.settings.candidates,
    "because offline": lambda s, e: s.cause is not None and s.cause.kind is CauseKind.OFFLINE,
    "because offline, no peer": lambda s, e: (
        s.cause is not None and s.cause.kind is CauseKind.OFFLINE and s.candidate.peer is None
    ),
    "then disconnect": lambda s, e: s.after is After.DISCONNECT,
    "then block": lambda s, e: s.after is After.BLOCK,
    "then reconnect, offline": lambda s, e: s.after is After.RECONNECT and not s.online,
    "then reconnect, no peer": lambda s, e: s.after is After.RECONNECT and s.candidate.peer is None,
    "then reconnect": lambda s, e: s.after is After.RECONNECT,
}

# Changes: what a row does to the situation besides the state.

Change = Callable[[Situation, Event], Situation]


def _nothing(s: Situation, e: Event) -> Situation:
    return s


def _from_the_first(s: Situation, e: Event) -> Situation:
    """A command: begin with the candidate that is preferred."""
    return replace(s, first=0, attempt=0, retrying=False)


def _from_the_last(s: Situation, e: Event) -> Situation:
    """Begin with the candidate that worked last."""
    return replace(s, attempt=0, retrying=False)


def _up(s: Situation, e: Event) -> Situation:
    return replace(s, first=s.choice, attempt=0)


def _lost(s: Situation, e: Event) -> Situation:
    return replace(s, attempt=0, retrying=True)


def _next_attempt(s: Situation, e: Event) -> Situation:
    return replace(s, attempt=s.attempt + 1, retrying=True)


def _blame(s: Situation, e: Event) -> Situation:
    assert isinstance(e, Fatal | ApplyFailed | Block)
    return replace(s, cause=e.cause)


def _blame_offline(s: Situation, e: Event) -> Situation:
    return replace(s, cause=Cause(CauseKind.OFFLINE))


def _blame_no_peer(s: Situation, e: Event) -> Situation:
    return replace(s, cause=s.settings.no_peer)


def _then_disconnect(s: Situation, e: Event) -> Situation:
    return replace(s, after=After.DISCONNECT)


def _then_reconnect(s: Situation, e: Event) -> Situation:
    return replace(_from_the_first(s, e), after=After.RECONNECT)


def _then_block(s: Situation, e: Event) -> Situation:
    return replace(_blame(s, e), after=After.BLOCK)


def _take_settings(s: Situation, e: Event) -> Situation:
    """Stay with the candidate in use if the new settings have it too, else begin with their first."""
    assert isinstance(e, SettingsChanged)
    candidates = e.settings.candidates
    if s.candidate in candidates:
        return replace(s, settings=e.settings, first=(candidates.index(s.candidate) - s.attempt) % len(candidates))
    return replace(s, settings=e.settings, first=0, attempt=0)


def _take_settings_then_reconnect(s: Situation, e: Event) -> Situation:
    return replace(_take_settings(s, e), after=After.RECONNECT, retrying=False)


def _take_device(s: Situation, e: Event) -> Situation:
    return replace(s, device=True)


def _go_offline(s: Situation, e: Event) -> Situation:
    return replace(s, online=False)


def _go_offline_then_reconnect(s: Situation, e: Event) -> Situation:
    return replace(s, online=False, after=After.RECONNECT)


def _go_online(s: Situation, e: Event) -> Situation:
    return replace(s, online=True)


def _go_online_from_the_last(s: Situation, e: Event) -> Situation:
    return replace(_from_the_last(s, e), online=True)


def _go_online_without_a_peer(s: Situation, e: Event) -> Situation:
    return replace(_blame_no_peer(s, e), online=True)


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
    Row(_D, Connect, "", _C, _from_the_first),
    Row(_D, Disconnect, "not enforced", _D),
    Row(_D, SettingsChanged, "", _D, _take_settings),
    Row(_D, InterfaceUp, "always require VPN", _D, _take_device, How.REAPPLY),
    Row(_D, Disturbed, "always require VPN", _D),
    Row(_D, DeviceLost, "always require VPN", _D),
    Row(_D, Retry, "not enforced", _D),
    Row(_D, Offline, "", _D, _go_offline, How.NOTE),
    Row(_D, Online, "", _D, _go_online, How.NOTE),
    Row(_D, ApplyFailed, "", _D, _not_enforced, How.NOTE),
    Row(_D, Fatal, "", _D, _not_enforced, How.NOTE),
    # Connecting: only the first hop, until the tunnel is verified. Another attempt is another candidate's turn.
    Row(_C, TunnelUp, "device up", _U, _up),
    Row(_C, TunnelDown, "", _C, _next_attempt),
    Row(_C, HandshakeGivenUp, "", _C, _next_attempt),
    Row(_C, DeviceLost, "", _C, _next_attempt),
    Row(_C, InterfaceUp, "", _C, _take_device, How.REAPPLY),
    Row(_C, Disturbed, "", _C, _nothing, How.REAPPLY),
    Row(_C, Connect, "", _X, _then_reconnect),
    Row(_C, Disconnect, "", _X, _then_disconnect),
    Row(_C, Fatal, "", _X, _then_block),
    Row(_C, Block, "", _X, _then_block),
    Row(_C, Offline, "", _X, _go_offline_then_reconnect),
    Row(_C, SettingsChanged, "same tunnel", _C, _take_settings, How.REAPPLY),
    Row(_C, SettingsChanged, "", _X, _take_settings_then_reconnect),
    Row(_C, ApplyFailed, "", _E, _blame),
    # Connected: verified, and watched.
    Row(_U, TunnelDown, "", _C, _lost),
    Row(_U, HandshakeGivenUp, "", _C, _lost),
    Row(_U, DeviceLost, "", _C, _lost),
    Row(_U, InterfaceUp, "", _U, _take_device, How.REAPPLY),
    Row(_U, Disturbed, "", _U),
    Row(_U, PathMtu, "", _U, _nothing, How.NOTE),
    Row(_U, Connect, "", _X, _then_reconnect),
    Row(_U, Disconnect, "", _X, _then_disconnect),
    Row(_U, Fatal, "", _X, _then_block),
    Row(_U, Block, "", _X, _then_block),
    Row(_U, Offline, "", _X, _go_offline_then_reconnect),
    Row(_U, SettingsChanged, "same tunnel", _U, _take_settings),
    Row(_U, SettingsChanged, "", _X, _take_settings_then_reconnect),
    Row(_U, ApplyFailed, "", _E, _blame),
    # Disconnecting: the old rules stay until the tunnel has closed; the last command says where to.
    Row(_X, TunnelClosed, "then disconnect", _D),
    Row(_X, TunnelClosed, "then block", _E),
    Row(_X, TunnelClosed, "then reconnect, offline", _E, _blame_offline),
    Row(_X, TunnelClosed, "then reconnect, no peer", _E, _blame_no_peer),
    Row(_X, TunnelClosed, "then reconnect", _C, _from_the_last),
    Row(_X, Connect, "", _X, _then_reconnect, How.NOTE),
    Row(_X, Disconnect, "", _X, _then_disconnect, How.NOTE),
    Row(_X, Block, "", _X, _then_block, How.NOTE),
    Row(_X, Fatal, "then reconnect", _X, _then_block, How.NOTE),
    Row(_X, SettingsChanged, "", _X, _take_settings, How.NOTE),
    Row(_X, Disturbed, "", _X, _nothing, How.REAPPLY),
    Row(_X, DeviceLost, "", _X, _nothing, How.REAPPLY),
    Row(_X, Retry, "not enforced", _X, _nothing, How.REAPPLY),
    Row(_X, Offline, "", _X, _go_offline, How.NOTE),
    Row(_X, Online, "", _X, _go_online, How.NOTE),
    Row(_X, ApplyFailed, "", _X, _not_enforced, How.NOTE),
    # Error: blocked, and the user knows why.
    Row(_E, Disconnect, "", _D),
    Row(_E, Connect, "offline", _E, _blame_offline, How.NOTE),
    Row(_E, Connect, "no peer", _E, _blame_no_peer, How.NOTE),
    Row(_E, Connect, "", _C, _from_the_first),
    Row(_E, Online, "because offline, no peer", _E, _go_online_without_a_peer, How.NOTE),
    Row(_E, Online, "because offline", _C, _go_online_from_the_last),
    Row(_E, Online, "", _E, _go_online, How.NOTE),
    Row(_E, Offline, "", _E, _go_offline, How.NOTE),
    Row(_E, SettingsChanged, "", _E, _take_settings),
    Row(_E, InterfaceUp, "", _E, _take_device, How.REAPPLY),
    Row(_E, Disturbed, "", _E),
    Row(_E, DeviceLost, "", _E),
    Row(_E, Retry, "not enforced", _E),
    Row(_E, Fatal, "", _E, _blame, How.NOTE),
    Row(_E, Block, "", _E, _blame, How.NOTE),
    Row(_E, ApplyFailed, "", _E, _not_enforced, How.NOTE),
)
