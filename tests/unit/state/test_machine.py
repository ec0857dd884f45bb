"""The state machine in words: a playbook says what happens and which effects must follow, in order."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from engine.policy import Hop, Platform, Policy, Protocol, State, Tunnel
from engine.state import (
    TABLE,
    ApplyFailed,
    ApplyPolicy,
    Cause,
    CauseKind,
    CloseTun,
    Connect,
    Disconnect,
    Effect,
    Event,
    Fatal,
    HandshakeGivenUp,
    InterfaceUp,
    Machine,
    Offline,
    Online,
    OpenTun,
    Report,
    ResetDns,
    SetDns,
    Settings,
    SettingsChanged,
    StartTunnel,
    StopTunnel,
    TunnelClosed,
    TunnelDown,
    TunnelUp,
    establish_timeout,
)
from engine.state.machine import How

GATEWAY = ip_address("10.64.0.1")
TUNNEL = Tunnel("mh0", (ip_address("10.64.0.2"), ip_address("fd00::2")), (GATEWAY,))
PEER = Hop(ip_address("192.0.2.7"), 51820, Protocol.UDP)
OTHER_PEER = Hop(ip_address("192.0.2.8"), 51820, Protocol.UDP)
SETTINGS = Settings(peer=PEER, tunnel=TUNNEL)
BROKEN = Cause(CauseKind.APPLY_POLICY, "no memory")


class Playbook:
    """Feeds a machine and keeps what it answered."""

    def __init__(self, settings: Settings = SETTINGS) -> None:
        self.machine = Machine(settings)
        self.effects: tuple[Effect, ...] = ()

    def __lshift__(self, event: Event) -> Playbook:
        self.effects = self.machine.handle(event)
        return self

    @property
    def state(self) -> State:
        return self.machine.state

    @property
    def policy(self) -> Policy:
        """What the last batch applies; its first effect."""
        first = self.effects[0]
        assert isinstance(first, ApplyPolicy)
        return first.policy

    @property
    def kinds(self) -> list[type[Effect]]:
        return [type(effect) for effect in self.effects]

    @property
    def told(self) -> Report:
        """The report, which is the last effect of its batch."""
        last = self.effects[-1]
        assert isinstance(last, Report)
        return last


def connecting(settings: Settings = SETTINGS) -> Playbook:
    return Playbook(settings) << Connect() << InterfaceUp(TUNNEL)


def connected(settings: Settings = SETTINGS) -> Playbook:
    return connecting(settings) << TunnelUp()


def in_error(cause: Cause = BROKEN) -> Playbook:
    return connected() << Fatal(cause) << TunnelClosed()


def test_a_connection_goes_from_connecting_over_the_device_to_connected() -> None:
    play = Playbook() << Connect()
    assert play.kinds == [ApplyPolicy, OpenTun, StartTunnel, Report]
    assert (play.policy.state, play.policy.peer, play.policy.tunnel) == (State.CONNECTING, PEER, None)
    play << InterfaceUp(TUNNEL)
    assert play.kinds == [ApplyPolicy, Report]
    assert (play.policy.state, play.policy.tunnel) == (State.CONNECTING, TUNNEL)
    play << TunnelUp()
    assert play.effects == (
        ApplyPolicy(play.policy),
        SetDns((GATEWAY,)),
        Report(play.told.status),
    )
    assert play.policy == Policy(state=State.CONNECTED, peer=PEER, tunnel=TUNNEL)
    assert play.told.status.enforced


def test_a_disconnect_keeps_the_rules_until_the_tunnel_has_closed_and_then_opens() -> None:
    play = connected() << Disconnect()
    assert play.kinds == [ApplyPolicy, ResetDns, StopTunnel, Report]
    assert (play.policy.state, play.policy.kept) == (State.DISCONNECTING, State.CONNECTED)
    play << TunnelClosed()
    assert play.kinds == [ApplyPolicy, ResetDns, CloseTun, Report]
    assert play.state is State.DISCONNECTED


def test_settings_that_arrive_while_disconnecting_do_not_touch_the_kept_policy() -> None:
    play = connected() << Disconnect()
    kept = play.policy
    play << SettingsChanged(Settings(peer=PEER, tunnel=TUNNEL, allow_lan=True))
    assert play.kinds == [Report]
    assert play.told.status.policy == kept


def test_a_lost_tunnel_goes_back_to_connecting_with_the_block_in_place() -> None:
    for lost in (TunnelDown("silent"), HandshakeGivenUp()):
        play = connected() << lost
        assert play.state is State.CONNECTING
        assert play.kinds == [ApplyPolicy, OpenTun, StartTunnel, Report]
        assert play.policy.tunnel == TUNNEL, "the device stays"


def test_attempts_take_four_then_eight_then_fifteen_seconds() -> None:
    play = Playbook() << Connect()
    timeouts = []
    for _ in range(4):
        timeouts += [effect.timeout for effect in play.effects if isinstance(effect, StartTunnel)]
        play << TunnelDown("timeout")
    assert timeouts == [4.0, 8.0, 15.0, 15.0]
    assert establish_timeout(10_000) == 15.0


def test_the_attempt_count_starts_anew_after_a_connection() -> None:
    play = connecting() << TunnelDown() << TunnelDown() << TunnelUp() << TunnelDown()
    assert StartTunnel(0, 4.0) in play.effects


def test_going_offline_ends_in_error_and_coming_back_tries_again() -> None:
    play = connected() << Offline()
    assert play.state is State.DISCONNECTING
    play << TunnelClosed()
    assert play.state is State.ERROR
    assert play.told.status.cause == Cause(CauseKind.OFFLINE)
    play << Online()
    assert play.state is State.CONNECTING


def test_a_short_offline_spell_while_disconnecting_does_not_end_in_error() -> None:
    play = connected() << Offline() << Online() << TunnelClosed()
    assert play.state is State.CONNECTING


def test_coming_online_does_not_leave_an_error_with_another_cause() -> None:
    play = in_error() << Offline() << Online()
    assert play.state is State.ERROR


def test_connecting_without_a_peer_is_an_error_that_names_it() -> None:
    play = Playbook(Settings()) << Connect()
    assert play.state is State.ERROR
    assert str(play.told.status.cause) == "no peer with an endpoint is configured"


def test_connecting_while_offline_is_an_error_that_blocks() -> None:
    play = Playbook() << Offline() << Connect()
    assert play.kinds == [ApplyPolicy, OpenTun, StopTunnel, Report]
    assert play.policy.state is State.ERROR


def test_an_error_keeps_its_cause_in_the_status_until_connected() -> None:
    play = in_error() << Connect()
    assert (play.state, play.told.status.cause) == (State.CONNECTING, BROKEN)
    play << TunnelDown("timeout")
    assert play.told.status.cause == BROKEN
    play << TunnelUp()
    assert (play.state, play.told.status.cause) == (State.CONNECTED, None)


def test_an_error_is_left_by_disconnecting_at_once_for_no_tunnel_runs() -> None:
    play = in_error() << Disconnect()
    assert play.state is State.DISCONNECTED
    assert CloseTun() in play.effects


def test_the_users_disconnect_stands_against_a_later_failure() -> None:
    play = connected() << Disconnect() << Fatal(BROKEN) << TunnelClosed()
    assert play.state is State.DISCONNECTED


def test_a_new_command_changes_where_disconnecting_leads() -> None:
    assert (connected() << Disconnect() << Connect() << TunnelClosed()).state is State.CONNECTING
    assert (connected() << Connect() << Disconnect() << TunnelClosed()).state is State.DISCONNECTED
    assert (connected() << Connect() << Fatal(BROKEN) << TunnelClosed()).state is State.ERROR


def test_always_require_vpn_keeps_device_and_block_when_disconnected() -> None:
    play = connected(Settings(peer=PEER, tunnel=TUNNEL, always_require_vpn=True))
    play << Disconnect() << TunnelClosed()
    assert play.kinds == [ApplyPolicy, ResetDns, OpenTun, Report]
    assert play.policy.state is State.DISCONNECTED
    assert play.policy.always_require_vpn


def test_turning_always_require_vpn_on_while_disconnected_blocks_at_once() -> None:
    play = Playbook() << SettingsChanged(Settings(peer=PEER, tunnel=TUNNEL, always_require_vpn=True))
    assert play.kinds == [ApplyPolicy, ResetDns, OpenTun, Report]


def test_allow_lan_is_applied_in_place_and_another_server_by_reconnecting() -> None:
    play = connected() << SettingsChanged(Settings(peer=PEER, tunnel=TUNNEL, allow_lan=True))
    assert play.state is State.CONNECTED
    assert play.policy.allow_lan
    play << SettingsChanged(Settings(peer=OTHER_PEER, tunnel=TUNNEL, allow_lan=True))
    assert play.state is State.DISCONNECTING
    play << TunnelClosed()
    assert (play.state, play.policy.peer) == (State.CONNECTING, OTHER_PEER)


def test_custom_dns_servers_replace_the_gateway() -> None:
    server = ip_address("192.168.1.53")
    play = connected(Settings(peer=PEER, tunnel=TUNNEL, dns=(server,)))
    assert SetDns((server,)) in play.effects
    assert play.policy.dns == (server,)


def test_a_policy_that_cannot_be_applied_while_connecting_or_connected_is_an_error() -> None:
    for play in (connecting(), connected()):
        play << ApplyFailed(BROKEN)
        assert play.state is State.ERROR
        assert play.kinds == [ApplyPolicy, OpenTun, StopTunnel, Report]
        assert play.told.status.cause == BROKEN


def test_an_error_whose_block_fails_says_so_and_does_not_try_in_a_loop() -> None:
    play = connected() << ApplyFailed(BROKEN) << ApplyFailed(BROKEN)
    assert play.kinds == [StopTunnel, Report]
    assert not play.told.status.enforced
    assert play.told.status.failure == BROKEN


def test_a_failed_apply_is_told_in_disconnecting_and_in_disconnected_too() -> None:
    play = connected() << Disconnect() << ApplyFailed(BROKEN)
    assert (play.kinds, play.told.status.enforced) == ([StopTunnel, Report], False)
    play = connected() << Disconnect() << TunnelClosed() << ApplyFailed(BROKEN)
    assert (play.kinds, play.told.status.enforced) == ([ResetDns, CloseTun, Report], False)
    always = Settings(peer=PEER, tunnel=TUNNEL, always_require_vpn=True)
    play = connected(always) << Disconnect() << TunnelClosed() << ApplyFailed(BROKEN)
    assert (play.kinds, play.told.status.enforced) == ([ResetDns, Report], False)


def test_a_capture_that_failed_is_tried_again_by_the_next_setting() -> None:
    play = connected() << ApplyFailed(BROKEN) << ApplyFailed(BROKEN)
    play << SettingsChanged(Settings(peer=PEER, tunnel=TUNNEL, allow_lan=True))
    assert play.kinds == [ApplyPolicy, OpenTun, StopTunnel, Report]


def test_the_platform_profile_reaches_the_policy() -> None:
    play = Playbook(Settings(peer=PEER, platform=Platform.IOS, ios_blocking=True)) << Connect()
    assert (play.policy.platform, play.policy.ios_blocking) == (Platform.IOS, True)


def test_an_event_that_means_nothing_here_changes_nothing() -> None:
    for event in (TunnelUp(), TunnelDown(), TunnelClosed(), HandshakeGivenUp(), InterfaceUp(TUNNEL)):
        play = Playbook() << event
        assert (play.effects, play.state) == ((), State.DISCONNECTED)


def test_only_an_explicit_disconnect_leads_to_disconnected_in_the_whole_table() -> None:
    arrivals = {
        (row.source, row.event, row.when)
        for row in TABLE
        if row.target is State.DISCONNECTED and row.source is not State.DISCONNECTED
    }
    assert arrivals == {
        (State.DISCONNECTING, TunnelClosed, "then disconnect"),
        (State.ERROR, Disconnect, ""),
    }


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.source}-{row.event.__name__}-{row.when}")
def test_a_row_that_moves_enters(row: object) -> None:
    from engine.state.machine import Row

    assert isinstance(row, Row)
    assert row.source is row.target or row.how is How.ENTER
