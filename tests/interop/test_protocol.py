"""The protocol against wireguard-go, in both roles: families, preshared key, MTU, roaming, rekey, offloads.

Each test is quick but those marked slow, which take the real time or the real volume.
"""

from __future__ import annotations

import time

import pytest

from tests.interop.link import INNER, MIB, OURS, OUTER, PORT, ROLES, Link, Sent, Transfer, at
from tests.netns.engines import MOLEHILL, WIREGUARD_GO
from tests.netns.lab import wait_until

pytestmark = pytest.mark.netns
roles = pytest.mark.parametrize("commands", ROLES.values(), ids=ROLES.keys())


@roles
@pytest.mark.parametrize("outer", [4, 6])
def test_both_inner_families_pass_over_either_outer_family(commands: tuple[str, str], outer: int) -> None:
    with Link(commands, outer=outer) as link:
        assert link.ping(4)
        assert link.ping(6)
        assert link.send(4 * MIB, inner=4) == Sent(4 * MIB, True)
        assert link.send(4 * MIB, inner=6, ends="ba") == Sent(4 * MIB, True)


@roles
def test_64_mib_arrive_whole_in_both_directions(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        assert link.send(64 * MIB, ends="ab") == Sent(64 * MIB, True)
        assert link.send(64 * MIB, ends="ba") == Sent(64 * MIB, True)


@roles
def test_a_transfer_each_way_at_once_arrives_whole(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        assert link.ping()  # b knows no endpoint before it has heard of a
        assert link.both_ways(16 * MIB) == (Sent(16 * MIB, True), Sent(16 * MIB, True))


@roles
def test_a_preshared_key_is_used_by_both_or_nothing_passes(commands: tuple[str, str]) -> None:
    with Link(commands, psk=True) as link:
        assert link.ping(4)
    with Link(commands, psk=True) as link:
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "preshared-key", "/dev/null")
        assert not link.ping(4, wait=2)
        assert link.a.last_handshake() == 0


@roles
@pytest.mark.parametrize("mtu", [1280, 1420])
def test_a_packet_of_the_mtu_passes_whole_and_one_byte_more_does_not(commands: tuple[str, str], mtu: int) -> None:
    with Link(commands, mtu=mtu) as link:
        assert link.ping(4, size=mtu - 28)
        assert link.ping(6, size=mtu - 48)
        assert not link.ping(4, size=mtu - 27, wait=1)
        assert link.send(8 * MIB) == Sent(8 * MIB, True)


@roles
@pytest.mark.parametrize("outer", [4, 6])
def test_a_transfer_survives_the_initiator_changing_its_address(commands: tuple[str, str], outer: int) -> None:
    old, new = OUTER["a"][outer], OUTER["a"][outer] + "1"
    length, nodad = (24, "") if outer == 4 else (64, " nodad")
    with Link(commands, outer=outer) as link:
        assert link.ping()
        assert link.b.endpoint().startswith(at(old, 0).removesuffix("0"))
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 12 * MIB, rate=8 * MIB)
        wait_until(lambda: transfer.moved > MIB, 20, "the transfer under way")
        link.lab["a"].ip(f"addr add {new}/{length} dev eth0{nodad}")
        link.lab["a"].ip(f"addr del {old}/{length} dev eth0")
        if commands[0] == WIREGUARD_GO:  # it forgets a source address that is gone only with its socket
            link.a.wg("set", link.a.iface, "listen-port", "50001")
        assert transfer.moved < 12 * MIB
        assert transfer.result() == Sent(12 * MIB, True)
        assert link.b.endpoint().startswith(at(new, 0).removesuffix("0"))


@roles
def test_a_transfer_survives_the_initiator_changing_its_port(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        assert link.ping()
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], 10 * MIB, rate=8 * MIB)
        wait_until(lambda: transfer.moved > MIB, 20, "the transfer under way")
        link.a.wg("set", link.a.iface, "listen-port", "50001")
        assert transfer.result() == Sent(10 * MIB, True)
        assert link.b.endpoint() == "172.16.9.1:50001"


@roles
def test_an_endpoint_set_to_the_other_family_takes_over_on_a_live_session(commands: tuple[str, str]) -> None:
    with Link(commands, outer=4) as link:
        assert link.ping()
        handshake = link.a.last_handshake()
        link.a.wg("set", link.a.iface, "peer", link.keys["b"].public, "endpoint", at(OUTER["b"][6]))
        assert link.ping()
        assert link.b.endpoint().startswith(f"[{OUTER['a'][6]}]:")
        assert link.a.last_handshake() == handshake


@pytest.mark.slow
def test_a_responder_that_forgot_its_sessions_is_found_again() -> None:
    with Link(ROLES["we initiate"]) as link:
        assert link.ping()
        conf = link.b.wg("showconf", link.b.iface)
        assert f"ListenPort = {PORT}" in conf
        link.b.wg("set", link.b.iface, "peer", link.keys["a"].public, "remove")
        link.b.setconf(conf)  # all sessions of b are gone; a learns of it only by silence
        link.lab["b"].ip(f"route replace 10.9.0.0/24 dev {link.b.iface}")
        begin = time.monotonic()
        # a: 10 s keepalive + 5 s without an answer, then a new handshake (paper section 6.2)
        wait_until(lambda: link.ping(wait=1), 30, "an answer through a new session")
        assert time.monotonic() - begin < 25


@pytest.mark.skipif(OURS != MOLEHILL, reason="--no-offload is molehill-wg's own option")
@pytest.mark.parametrize("ours_first", [True, False], ids=["we initiate", "we respond"])
def test_offloads_forced_off_change_nothing_but_the_speed(ours_first: bool) -> None:
    plain = "molehill-wg --no-offload -f {iface}"
    with Link((plain, WIREGUARD_GO) if ours_first else (WIREGUARD_GO, plain)) as link:
        for role in "ab":
            link.lab[role].sh("ethtool", "-K", "eth0", "tso", "off", "gso", "off", "gro", "off")
        assert link.send(16 * MIB, ends="ab") == Sent(16 * MIB, True)
        assert link.send(16 * MIB, ends="ba", inner=6) == Sent(16 * MIB, True)


@pytest.mark.skipif(OURS != MOLEHILL, reason="between two of ours only")
def test_two_of_ours_with_offloads_on_one_side_only_understand_each_other() -> None:
    with Link((MOLEHILL, "molehill-wg --no-offload -f {iface}")) as link:
        assert link.send(16 * MIB, ends="ab") == Sent(16 * MIB, True)
        assert link.send(16 * MIB, ends="ba") == Sent(16 * MIB, True)


@roles
@pytest.mark.slow
@pytest.mark.timeout(600)
def test_1_gib_arrives_whole_in_both_directions(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        assert link.send(1012 * MIB, ends="ab") == Sent(1012 * MIB, True)
        assert link.send(1012 * MIB, ends="ba") == Sent(1012 * MIB, True)


@roles
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_keys_are_renewed_after_two_minutes_in_the_middle_of_a_transfer(commands: tuple[str, str]) -> None:
    with Link(commands) as link:
        assert link.ping()
        first = link.a.last_handshake()
        size = 270 * MIB  # 135 s at this rate: REKEY_AFTER_TIME is 120 s
        transfer = Transfer(link.lab["a"], link.lab["b"], INNER["b"][4], size, rate=2 * MIB)
        assert transfer.result() == Sent(size, True)
        assert 115 <= link.a.last_handshake() - first <= 130
