"""The tunnel state machine: five states, events in, effects out. Pure: no clock, no I/O, no randomness.

Theory of operation
-------------------
`TABLE` (engine/state/table.py) is the whole machine. How a row goes (`How`) decides the effects:

    ENTER   go to `target`: ApplyPolicy(the target's policy), then the target's own entry effects, then Report
    REAPPLY stay: ApplyPolicy(the policy after the change), then Report
    NOTE    stay, and the policy stays as it is: what the event itself asks for, then Report

So `ApplyPolicy` is the first effect of every transition, and no other effect runs unless it succeeded.

Four rules hold everywhere, and the tests hold the table to them:

1. Only an explicit `Disconnect` leads to Disconnected (KS-1). A lost tunnel, another server, a crash of the
   tunnel, being offline: each leads from one blocking policy to another.
2. Error is left only by `Disconnect`, or by a new attempt, which blocks as Error does and keeps telling the
   cause until it ends in Connected (ERR-2). Only "offline" starts that attempt by itself, when the device is
   online again.
3. A failed apply is told in every state (ERR-3): `enforced` is False from then until an apply succeeds. Out
   of Connecting and Connected it leads to Error, whose policy is the strictest there is. The machine does not
   repeat it by itself: `Retry` is the runner's, which has a clock.
4. A policy names one candidate's first hop and no other's (CON-1): that of the attempt, or of the tunnel.

Disconnecting keeps the rules of the state it came from (DSC-1), with the facts of that moment; where it leads
is in `after`, which a new command may change until the tunnel has closed.
"""

from __future__ import annotations

from dataclasses import replace

from engine.policy import State
from engine.state.effects import (
    ApplyPolicy,
    CloseTun,
    Effect,
    OpenTun,
    Report,
    ResetDns,
    SetDns,
    SetMtu,
    StartTunnel,
    StopTunnel,
)
from engine.state.events import ApplyFailed, Event, PathMtu, Settings
from engine.state.situation import Situation
from engine.state.table import CONDITIONS, TABLE, How

MIN_LIFETIME = 1.0  # seconds from one attempt's begin to the next one's, where no command asks for it


def establish_timeout(attempt: int) -> float:
    """Seconds that attempt number `attempt` (from 0) may take: 4, 8, then 15."""
    return min(15.0, 4.0 * 2.0 ** min(attempt, 2))


def _entry(s: Situation) -> list[Effect]:
    """What entering the situation's state needs after its policy is in force."""
    match s.state:
        case State.DISCONNECTED:
            return [ResetDns(), OpenTun() if s.settings.always_require_vpn else CloseTun()]
        case State.CONNECTING:
            pause = MIN_LIFETIME if s.retrying else 0.0
            return [OpenTun(), StartTunnel(s.attempt, establish_timeout(s.attempt), pause)]
        case State.CONNECTED:
            tunnel = s.policy.tunnel
            return [SetDns(s.settings.dns or (tunnel.gateways if tunnel is not None else ()))]
        case State.DISCONNECTING:
            return [ResetDns(), StopTunnel()]
        case State.ERROR:
            return [OpenTun(), StopTunnel()]


def _asked_for(s: Situation, event: Event) -> list[Effect]:
    """What an event asks for that changes no policy: after a failed apply what it cut off, and still has to be done.

    Opening what the user asked to open goes on.
    """
    match event:
        case PathMtu(mtu):
            return [SetMtu(mtu)]
        case ApplyFailed() if s.state is not State.DISCONNECTED:
            return [StopTunnel()]
        case ApplyFailed():
            return [ResetDns()] if s.settings.always_require_vpn else [ResetDns(), CloseTun()]
    return []


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
                if row.source is before.state and isinstance(event, row.event) and CONDITIONS[row.when](before, event)
            ),
            None,
        )
        if row is None:
            return ()
        after = replace(row.change(before, event), state=row.target)
        if row.how is How.NOTE:
            self.situation = after
            return (*_asked_for(after, event), Report(after.status))
        # A policy is about to be applied: it counts as in force unless ApplyFailed says otherwise.
        after = replace(after, failure=None)
        if after.state in (State.CONNECTED, State.DISCONNECTED):
            after = replace(after, cause=None)
        if row.how is How.ENTER and after.state is State.DISCONNECTING:
            after = replace(after, kept=replace(before.policy, state=State.DISCONNECTING, kept=before.state))
        if after.state is State.DISCONNECTED and not after.settings.always_require_vpn:
            after = replace(after, device=False)
        self.situation = after
        entry = _entry(after) if row.how is How.ENTER else []
        return (ApplyPolicy(after.policy), *entry, Report(after.status))
