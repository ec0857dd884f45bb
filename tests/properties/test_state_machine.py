"""Random events against the state machine, and a runner whose effects fail at random.

The model keeps what is *really* in force: the policy of the last apply that succeeded. After every event, and
all that follows from it, the promises must hold.
"""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from engine.policy import Hop, Policy, Protocol, State, Tunnel
from engine.state import (
    ApplyFailed,
    ApplyPolicy,
    Cause,
    CauseKind,
    CloseTun,
    Connect,
    Disconnect,
    Event,
    Fatal,
    HandshakeGivenUp,
    InterfaceUp,
    Machine,
    Offline,
    Online,
    OpenTun,
    Report,
    Settings,
    SettingsChanged,
    StartTunnel,
    Status,
    StopTunnel,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
)

TUNNEL = Tunnel("mh0", (ip_address("10.64.0.2"),), (ip_address("10.64.0.1"),))
PEERS = [None, *(Hop(ip_address(f"192.0.2.{n}"), 51820, Protocol.UDP) for n in (7, 8))]
SETTINGS = st.builds(
    Settings,
    allow_lan=st.booleans(),
    always_require_vpn=st.booleans(),
    peer=st.sampled_from(PEERS),
    tunnel=st.just(TUNNEL),
)
WORLD: list[Event] = [
    TunnelUp(),
    TunnelDown("silent"),
    HandshakeGivenUp(),
    Offline(),
    Online(),
    TunnelClosed(),
    InterfaceUp(TUNNEL),
    Fatal(Cause(CauseKind.START_TUNNEL, "no socket")),
]


class TunnelStateMachine(RuleBasedStateMachine):
    """The machine with a runner that may fail to apply, to open or to close."""

    def __init__(self) -> None:
        super().__init__()
        self.machine = Machine(Settings(peer=PEERS[1], tunnel=TUNNEL))
        self.in_force: Policy = self.machine.situation.policy
        self.captured = False
        self.told: Status | None = None
        self.user_disconnected = True

    def feed(self, event: Event, *, broken: bool = False) -> None:
        """Hand in one event and perform what follows from it, as the runner does."""
        queue = [event]
        for _ in range(12):
            if not queue:
                return
            event = queue.pop(0)
            self.captured |= isinstance(event, InterfaceUp)
            before = self.machine.situation
            effects = self.machine.handle(event)
            self.check_step(before.state, event, [type(effect) for effect in effects])
            for effect in effects:
                match effect:
                    case ApplyPolicy(policy):
                        if broken:
                            queue.insert(0, ApplyFailed(Cause(CauseKind.APPLY_POLICY, "broken")))
                            break
                        self.in_force = policy
                    case OpenTun():
                        if broken:
                            queue.insert(0, ApplyFailed(Cause(CauseKind.TUN_DEVICE, "broken")))
                            break
                        self.captured = True
                        queue.append(InterfaceUp(TUNNEL))
                    case CloseTun():
                        self.captured = False
                    case StopTunnel():
                        queue.append(TunnelClosed())
                    case StartTunnel(attempt, timeout):
                        assert attempt >= 0
                        assert 4 <= timeout <= 15
                    case Report(status):
                        self.told = status
                    case _:
                        pass
        raise AssertionError("the machine and its runner keep each other busy for ever")

    def check_step(self, before: State, event: Event, kinds: list[type]) -> None:
        after = self.machine.state
        if after is not before:
            assert kinds[0] is ApplyPolicy, "every transition applies its policy first"
        if kinds:
            assert kinds[-1] is Report
        if before is not State.DISCONNECTED and after is State.DISCONNECTED:
            assert self.user_disconnected, "KS-1: only an explicit disconnect opens"
        if before is State.ERROR and after not in (State.ERROR, State.DISCONNECTED):
            assert isinstance(event, Connect | Online)
            assert self.machine.situation.cause is not None, "ERR-2: told until Connected"

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
            blocking = self.told.state is not State.DISCONNECTED or self.told.policy.always_require_vpn
            assert self.captured or not blocking

    @invariant()
    def an_error_names_its_cause(self) -> None:
        assert (self.machine.state is not State.ERROR) or self.machine.situation.cause is not None

    @invariant()
    def disconnecting_keeps_the_rules_it_found(self) -> None:
        policy = self.machine.situation.policy
        if self.machine.state is State.DISCONNECTING:
            assert policy.kept in (State.CONNECTING, State.CONNECTED)

    @invariant()
    def connected_has_a_device_a_peer_and_no_cause(self) -> None:
        situation = self.machine.situation
        if situation.state is State.CONNECTED:
            assert situation.interface is not None
            assert situation.settings.peer is not None
            assert situation.cause is None


TestTunnelStateMachine = TunnelStateMachine.TestCase
TestTunnelStateMachine.settings = hypothesis_settings(
    max_examples=100, stateful_step_count=40, deadline=None, database=None
)
