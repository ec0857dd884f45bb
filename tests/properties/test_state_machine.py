"""Random events against the state machine, and a runner whose effects fail at random.

The model keeps what is *really* in force: the policy of the last apply that succeeded. After every event, and
all that follows from it, the promises must hold.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.policy import Hop, Policy, Protocol, State, Tunnel
from engine.state import (
    ApplyFailed,
    ApplyPolicy,
    Block,
    Candidate,
    Cause,
    CauseKind,
    CloseTun,
    Connect,
    DeviceLost,
    Disconnect,
    Disturbed,
    Event,
    Fatal,
    HandshakeGivenUp,
    InterfaceUp,
    Machine,
    Offline,
    Online,
    OpenTun,
    Report,
    Retry,
    Settings,
    SettingsChanged,
    Situation,
    StartTunnel,
    Status,
    StopTunnel,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)

TUNNELS = [Tunnel("mh0", (ip_address(f"10.64.0.{n}"),), (ip_address("10.64.0.1"),)) for n in (2, 3)]
PEERS = [None, *(Hop(ip_address(f"192.0.2.{n}"), 51820, Protocol.UDP) for n in (7, 8, 9))]
BRIDGES = [None, Hop(ip_address("192.0.2.99"), 443, Protocol.TCP)]
CANDIDATES = st.builds(
    Candidate,
    peer=st.sampled_from(PEERS),
    bridge=st.sampled_from(BRIDGES),
    tunnel=st.sampled_from(TUNNELS),
    generation=st.integers(0, 1),
)
SETTINGS = st.builds(
    Settings,
    allow_lan=st.booleans(),
    always_require_vpn=st.booleans(),
    candidates=st.lists(CANDIDATES, max_size=4).map(tuple),
)
WORLD: list[Event] = [
    TunnelUp(),
    TunnelDown("silent"),
    HandshakeGivenUp(),
    Offline(),
    Online(),
    TunnelClosed(),
    Fatal(Cause(CauseKind.START_TUNNEL, "no socket")),
    Block(Cause(CauseKind.BLOCKED)),
    Disturbed("the table was removed"),
    DeviceLost("deleted"),
    Retry(),
]


class TunnelStateMachine(RuleBasedStateMachine):
    """The machine with a runner that may fail to apply, to open or to close."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(Settings(candidates=(Candidate(PEERS[1], tunnel=TUNNELS[0]),)))
        self.in_force: Policy | None = self.machine.situation.policy  # None: in doubt
        self.captured = False
        self.told: Status | None = None
        self.user_disconnected = True
        self.tunnel: Candidate | None = None  # with which the tunnel runs

    def feed(self, event: Event, *, broken: bool = False) -> None:
        """Hand in one event and perform what follows from it, as the runner does."""
        queue = [event]
        for _ in range(12):
            if not queue:
                return
            event = queue.pop(0)
            before = self.machine.situation
            effects = self.machine.handle(event)
            self.check_step(before, event, [type(effect) for effect in effects])
            for effect in effects:
                match effect:
                    case ApplyPolicy(policy):
                        if broken:
                            self.in_force = None
                            queue.insert(0, ApplyFailed(Cause(CauseKind.APPLY_POLICY, "broken")))
                            break
                        self.in_force = policy
                        self.captured |= policy.blocks
                    case OpenTun():
                        if broken:
                            queue.insert(0, ApplyFailed(Cause(CauseKind.TUN_DEVICE, "broken")))
                            break
                        self.captured = True
                        queue.append(InterfaceUp())
                    case CloseTun():
                        self.captured = False
                        if broken:
                            queue.insert(0, Fatal(Cause(CauseKind.INTERNAL, "a rule could not be removed")))
                            break
                    case StopTunnel():
                        self.tunnel = None
                        queue.append(TunnelClosed())
                    case StartTunnel(attempt, timeout, pause):
                        assert attempt >= 0
                        assert 4 <= timeout <= 15
                        assert pause > 0 or not isinstance(event, TunnelDown | HandshakeGivenUp | DeviceLost)
                        self.tunnel = self.machine.situation.candidate
                    case Report(status):
                        self.told = status
                    case _:
                        pass
        raise AssertionError("the machine and its runner keep each other busy for ever")

    def check_step(self, before: Situation, event: Event, kinds: list[type]) -> None:
        after = self.machine.situation
        if after.policy != before.policy:
            assert kinds[0] is ApplyPolicy, "a policy changes by being applied, first of all (ATOM-1)"
        if kinds:
            assert kinds[-1] is Report
            assert kinds.count(ApplyPolicy) <= 1, "one event is one change of policy (ATOM-1)"
        if before.state is not State.DISCONNECTED and after.state is State.DISCONNECTED:
            assert self.user_disconnected, "KS-1: only an explicit disconnect opens"
        if before.policy.blocks and not after.policy.blocks:
            assert self.user_disconnected, "KS-1: only an explicit disconnect opens"
        if before.state is State.ERROR and after.state not in (State.ERROR, State.DISCONNECTED):
            assert isinstance(event, Connect | Online)
            assert after.cause is not None, "ERR-2: told until Connected"
        if before.state is State.DISCONNECTING and after.state is State.DISCONNECTING:
            assert after.policy == before.policy, "DSC-1: the kept policy changes for nothing"
        if before.state in (State.CONNECTING, State.CONNECTED) and after.state is State.DISCONNECTING:
            assert after.policy.enforced is before.state
            assert after.policy.first_hop == before.policy.first_hop

    @rule(broken=st.booleans())
    def connect(self, broken: bool) -> None:
        self.user_disconnected = False
        self.feed(Connect(), broken=broken)

    @rule(broken=st.booleans())
    def disconnect(self, broken: bool) -> None:
        self.user_disconnected = True
        self.feed(Disconnect(), broken=broken)

    @rule(new=SETTINGS, broken=st.booleans())
    def change_settings(self, new: Settings, broken: bool) -> None:
        self.feed(SettingsChanged(new), broken=broken)

    @rule(count=st.integers(0, 5), broken=st.booleans())
    def change_the_order_of_the_candidates(self, count: int, broken: bool) -> None:
        settings = self.machine.situation.settings
        turned = (*settings.candidates[count:], *settings.candidates[:count])
        running = self.tunnel
        self.feed(SettingsChanged(replace(settings, candidates=turned)), broken=broken)
        if running is not None and not broken:
            assert self.tunnel == running, "the tunnel of a candidate that is still there stays"

    @rule(event=st.sampled_from(WORLD), broken=st.booleans())
    def happen(self, event: Event, broken: bool) -> None:
        self.feed(event, broken=broken)

    @invariant()
    def the_status_told_is_what_is_enforced(self) -> None:
        """ERR-3, in every state: enforced means that this very policy is in force and traffic is captured."""
        if self.told is None:
            return
        assert self.told == self.machine.situation.status
        if self.told.enforced:
            assert self.told.policy == self.in_force
            assert self.captured is self.told.policy.blocks

    @invariant()
    def an_error_names_its_cause(self) -> None:
        assert (self.machine.state is not State.ERROR) or self.machine.situation.cause is not None

    @invariant()
    def disconnecting_keeps_the_rules_it_found(self) -> None:
        policy = self.machine.situation.policy
        if self.machine.state is State.DISCONNECTING:
            assert policy.kept in (State.CONNECTING, State.CONNECTED)

    @invariant()
    def a_tunnel_runs_in_connecting_and_connected_alone_and_its_first_hop_is_the_one_the_policy_names(self) -> None:
        """CON-1: with several candidates only that of the attempt, and of a bridged one the bridge only."""
        situation = self.machine.situation
        running = situation.state in (State.CONNECTING, State.CONNECTED)
        assert (self.tunnel is not None) is running
        if self.tunnel is not None:
            assert self.tunnel == situation.candidate
            assert situation.policy.first_hop == (self.tunnel.bridge or self.tunnel.peer)
            assert situation.policy.tunnel in (None, self.tunnel.tunnel)

    @invariant()
    def connected_has_a_device_a_peer_and_no_cause(self) -> None:
        situation = self.machine.situation
        if situation.state is State.CONNECTED:
            assert situation.device
            assert situation.candidate.peer is not None
            assert situation.cause is None


TestTunnelStateMachine = TunnelStateMachine.TestCase
TestTunnelStateMachine.settings = hypothesis_settings(
    max_examples=150, stateful_step_count=40, deadline=None, database=None
)
