"""The state machine in words: a playbook says what happens and which effects must follow, in order."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from engine.policy import Hop, Platform, Policy, Protocol, State, Tunnel
from engine.state import (
    TABLE,
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
    Retry,
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
from engine.state.table import How, Row

GATEWAY = ip_address("10.64.0.1")
TUNNEL = Tunnel("mh0", (ip_address("10.64.0.2"), ip_address("fd00::2")), (GATEWAY,))
PEER = Hop(ip_address("192.0.2.7"), 51820, Protocol.UDP)
OTHER_PEER = Hop(ip_address("192.0.2.8"), 51820, Protocol.UDP)
RELAY, OTHER = Candidate(PEER, tunnel=TUNNEL), Candidate(OTHER_PEER, tunnel=TUNNEL)
SETTINGS = Settings(candidates=(RELAY,))
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
    return Playbook(settings) << Connect() << InterfaceUp()


def connected(settings: Settings = SETTINGS) -> Playbook:
    return connecting(settings) << TunnelUp()


def in_error(cause: Cause = BROKEN) -> Playbook:
    return connected() << Fatal(cause) << TunnelClosed()


def test_a_connection_goes_from_connecting_over_the_device_to_connected() -> None:
    play = Playbook() << Connect()
    assert play.kinds == [ApplyPolicy, OpenTun, StartTunnel, Report]
    assert (play.policy.state, play.policy.peer, play.policy.tunnel) == (State.CONNECTING, PEER, None)
    play << InterfaceUp()
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
    play << SettingsChanged(Settings(candidates=(RELAY,), allow_lan=True))
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
    assert StartTunnel(0, 4.0, 1.0) in play.effects


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


def three_relays(**change: bool) -> Settings:
    hops = [Hop(ip_address(f"192.0.2.{n}"), 51820, Protocol.UDP) for n in (1, 2, 3)]
    return Settings(candidates=tuple(Candidate(hop, tunnel=TUNNEL) for hop in hops), **change)


def relay_of(play: Playbook) -> str:
    """The first hop of the policy that the last batch applies."""
    assert play.policy.first_hop is not None
    return str(play.policy.first_hop.ip)


def test_each_attempt_is_the_next_relays_and_its_policy_names_that_one_alone() -> None:
    play = connecting(three_relays())
    tried = [relay_of(play)]
    for _ in range(3):
        play << TunnelDown("timeout")
        tried.append(relay_of(play))
    assert tried == ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"]


def test_a_lost_tunnel_tries_the_relay_that_worked_first_and_then_the_one_after_it() -> None:
    play = connecting(three_relays()) << TunnelDown() << TunnelUp()
    assert relay_of(play) == "192.0.2.2"
    play << TunnelDown("silent")
    assert relay_of(play) == "192.0.2.2"
    play << TunnelDown("timeout")
    assert relay_of(play) == "192.0.2.3"


def test_a_reconnect_begins_with_the_relay_that_is_preferred() -> None:
    play = connecting(three_relays()) << TunnelDown() << TunnelUp() << Connect() << TunnelClosed()
    assert relay_of(play) == "192.0.2.1"


def test_going_online_again_begins_with_the_relay_that_worked() -> None:
    play = connecting(three_relays()) << TunnelDown() << TunnelUp() << Offline() << TunnelClosed() << Online()
    assert relay_of(play) == "192.0.2.2"


def test_a_tunnel_whose_relay_is_still_among_the_candidates_stays() -> None:
    play = connecting(three_relays()) << TunnelDown() << TunnelUp()
    now = three_relays().candidates
    play << SettingsChanged(Settings(candidates=(now[2], now[1])))
    assert (play.state, relay_of(play)) == (State.CONNECTED, "192.0.2.2")
    play << SettingsChanged(Settings(candidates=(now[2], now[0])))
    play << TunnelClosed()
    assert (play.state, relay_of(play)) == (State.CONNECTING, "192.0.2.3")


def test_an_attempt_goes_on_when_its_relay_moves_in_the_list() -> None:
    play = connecting(three_relays()) << TunnelDown()
    now = three_relays().candidates
    play << SettingsChanged(Settings(candidates=(now[1], now[0])))
    assert (play.kinds, relay_of(play)) == ([ApplyPolicy, Report], "192.0.2.2")
    play << TunnelDown()
    assert relay_of(play) == "192.0.2.1"


def test_another_generation_of_the_same_relay_is_another_tunnel() -> None:
    play = connected() << SettingsChanged(Settings(candidates=(Candidate(PEER, tunnel=TUNNEL, generation=1),)))
    assert play.state is State.DISCONNECTING


def test_with_a_bridge_the_bridge_is_the_first_hop() -> None:
    bridge = Hop(ip_address("192.0.2.99"), 443, Protocol.TCP)
    play = connecting(Settings(candidates=(Candidate(PEER, bridge, TUNNEL),)))
    assert play.policy.first_hop == bridge


def test_attempts_after_a_failure_are_a_second_apart_and_commands_wait_for_nothing() -> None:
    play = Playbook(SETTINGS) << Connect()
    assert StartTunnel(0, 4.0, 0.0) in play.effects
    play << InterfaceUp() << TunnelDown()
    assert StartTunnel(1, 8.0, 1.0) in play.effects
    play << TunnelUp() << TunnelDown()
    assert StartTunnel(0, 4.0, 1.0) in play.effects
    play << Connect() << TunnelClosed()
    assert StartTunnel(0, 4.0, 0.0) in play.effects


def test_blocking_on_request_closes_the_tunnel_and_ends_in_an_error_that_says_so() -> None:
    on_request = Block(Cause(CauseKind.BLOCKED))
    for play in (connecting(), connected(), connected() << Disconnect(), connected() << Connect()):
        play << on_request
        assert play.state is State.DISCONNECTING
        play << TunnelClosed()
        assert (play.state, str(play.told.status.cause)) == (State.ERROR, "blocked on request")
    play = in_error() << on_request
    assert (play.state, play.told.status.cause) == (State.ERROR, on_request.cause)
    assert (play << Connect()).state is State.CONNECTING


def test_blocking_on_request_means_nothing_while_disconnected() -> None:
    assert (Playbook() << Block(Cause(CauseKind.BLOCKED))).effects == ()


def test_what_somebody_else_has_changed_is_put_in_force_again_in_every_state_that_blocks() -> None:
    always = Settings(candidates=(RELAY,), always_require_vpn=True)
    blocked = Playbook(always) << SettingsChanged(always)
    for play in (connecting(), connected(), connected() << Disconnect(), in_error(), blocked):
        before = play.machine.situation
        play << Disturbed("the firewall's table is gone")
        assert play.machine.situation == before
        assert play.policy == before.policy
    assert (Playbook() << Disturbed("what is not ours")).effects == ()


def test_a_disturbance_while_connected_sets_the_resolvers_again() -> None:
    assert SetDns((GATEWAY,)) in (connected() << Disturbed("/etc/resolv.conf")).effects


def test_a_lost_device_is_another_attempt_and_a_new_device_in_the_states_without_a_tunnel() -> None:
    for play in (connecting(), connected()):
        play << DeviceLost()
        assert play.state is State.CONNECTING
        assert play.kinds == [ApplyPolicy, OpenTun, StartTunnel, Report]
    assert OpenTun() in (in_error() << DeviceLost()).effects
    assert (connected() << Disconnect() << DeviceLost()).kinds == [ApplyPolicy, Report]


def test_what_could_not_be_put_in_force_is_tried_again_when_it_is_time_and_only_then() -> None:
    play = connected() << ApplyFailed(BROKEN) << ApplyFailed(BROKEN) << Retry()
    assert play.kinds == [ApplyPolicy, OpenTun, StopTunnel, Report]
    assert play.told.status.enforced
    assert (play << Retry()).effects == ()
    play = connected() << Disconnect() << ApplyFailed(BROKEN) << Retry()
    assert play.kinds == [ApplyPolicy, Report]
    play = connected() << Disconnect() << TunnelClosed() << ApplyFailed(BROKEN) << Retry()
    assert (play.state, play.kinds) == (State.DISCONNECTED, [ApplyPolicy, ResetDns, CloseTun, Report])


def test_the_user_is_told_why_there_is_no_peer() -> None:
    why = Cause(CauseKind.NO_RELAY, "country se")
    play = Playbook(Settings(no_peer=why)) << Connect()
    assert (play.state, play.told.status.cause) == (State.ERROR, why)


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
    play = connected(Settings(candidates=(RELAY,), always_require_vpn=True))
    play << Disconnect() << TunnelClosed()
    assert play.kinds == [ApplyPolicy, ResetDns, OpenTun, Report]
    assert play.policy.state is State.DISCONNECTED
    assert play.policy.always_require_vpn


def test_turning_always_require_vpn_on_while_disconnected_blocks_at_once() -> None:
    play = Playbook() << SettingsChanged(Settings(candidates=(RELAY,), always_require_vpn=True))
    assert play.kinds == [ApplyPolicy, ResetDns, OpenTun, Report]


def test_allow_lan_is_applied_in_place_and_another_server_by_reconnecting() -> None:
    play = connected() << SettingsChanged(Settings(candidates=(RELAY,), allow_lan=True))
    assert play.state is State.CONNECTED
    assert play.policy.allow_lan
    play << SettingsChanged(Settings(candidates=(OTHER,), allow_lan=True))
    assert play.state is State.DISCONNECTING
    play << TunnelClosed()
    assert (play.state, play.policy.peer) == (State.CONNECTING, OTHER_PEER)


def test_custom_dns_servers_replace_the_gateway() -> None:
    server = ip_address("192.168.1.53")
    play = connected(Settings(candidates=(RELAY,), dns=(server,)))
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
    always = Settings(candidates=(RELAY,), always_require_vpn=True)
    play = connected(always) << Disconnect() << TunnelClosed() << ApplyFailed(BROKEN)
    assert (play.kinds, play.told.status.enforced) == ([ResetDns, Report], False)


def test_a_capture_that_failed_is_tried_again_by_the_next_setting() -> None:
    play = connected() << ApplyFailed(BROKEN) << ApplyFailed(BROKEN)
    play << SettingsChanged(Settings(candidates=(RELAY,), allow_lan=True))
    assert play.kinds == [ApplyPolicy, OpenTun, StopTunnel, Report]


def test_the_platform_profile_reaches_the_policy() -> None:
    play = Playbook(Settings(candidates=(RELAY,), platform=Platform.IOS, ios_blocking=True)) << Connect()
    assert (play.policy.platform, play.policy.ios_blocking) == (Platform.IOS, True)


def test_an_event_that_means_nothing_here_changes_nothing() -> None:
    for event in (TunnelUp(), TunnelDown(), TunnelClosed(), HandshakeGivenUp(), InterfaceUp()):
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
def test_a_row_that_moves_enters(row: Row) -> None:
    assert row.source is row.target or row.how is How.ENTER


def test_coming_online_without_a_relay_says_that_there_is_none() -> None:
    book = connected()
    book.machine.handle(Offline())
    book.machine.handle(TunnelClosed())
    book.machine.handle(SettingsChanged(Settings(candidates=(Candidate(None, tunnel=TUNNEL),))))
    book.machine.handle(Online())
    assert book.machine.state is State.ERROR
    assert book.machine.situation.cause is not None
    assert book.machine.situation.cause.kind is CauseKind.NO_PEER
