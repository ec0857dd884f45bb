"""Packets as text: everything of the grammar is read, everything else is named with its place."""

import random
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.explain.packet import PacketError, packet_text, parse_packet
from native.facts import App, Direction, Facts, Fragment, Interface
from tests.samples import random_facts, random_policy
from tests.unit.explain.support import LINUX


def test_the_dhcp_request_of_the_manual_is_read() -> None:
    facts = parse_packet("out other udp 192.168.1.5:68 > 255.255.255.255:67")
    assert facts == Facts(
        4, 17, ip_address("192.168.1.5"), ip_address("255.255.255.255"), 68, 67,
        direction=Direction.OUT, iface_out=Interface.OTHER,
    )  # fmt: skip


def test_an_icmp_packet_has_type_and_code_and_no_ports() -> None:
    facts = parse_packet("in other icmp6:135/0 fe80::1 > ff02::1:ff00:1")
    assert (facts.proto, facts.icmp_type, facts.icmp_code, facts.sport) == (58, 135, 0, None)
    assert (facts.direction, facts.iface_in) == (Direction.IN, Interface.OTHER)
    assert parse_packet("out other icmp:8/0 1.2.3.4 > 1.1.1.1").proto == 1


def test_a_forwarded_packet_has_two_interfaces_and_one_ip_version() -> None:
    facts = parse_packet("forward tunnel>other tcp [fd00::2]:5000 > [2001:db8::1]:443")
    assert (facts.iface_in, facts.iface_out, facts.dport) == (Interface.TUNNEL, Interface.OTHER, 443)
    with pytest.raises(PacketError, match="column 45: an IPv4 source cannot send to the IPv6 address 2001:db8::1"):
        parse_packet("forward tunnel>other tcp 10.0.0.2:5000   >  [2001:db8::1]:443")


def test_the_keys_say_who_sent_it_and_what_it_belongs_to() -> None:
    text = "out other udp 192.168.1.5:4000 > 198.51.100.7:51820 mark=0x6d6f6c65 uid=root exe=service state=reply"
    facts = parse_packet(f"{text} frag=first")
    assert (facts.mark, facts.uid, facts.app, facts.reply) == (0x6D6F6C65, 0, App.SERVICE, True)
    assert facts.fragment is Fragment.FIRST
    assert facts.more_fragments


def test_a_later_fragment_shows_no_ports() -> None:
    facts = parse_packet("in tunnel udp 10.0.0.1 > 10.0.0.2 frag=later")
    assert (facts.fragment, facts.sport) == (Fragment.LATER, None)
    assert facts.frag_offset > 0
    with pytest.raises(PacketError, match="a later fragment shows no ports"):
        parse_packet("in tunnel udp 10.0.0.1:4 > 10.0.0.2:5 frag=later")


@pytest.mark.parametrize(
    ("text", "column", "says"),
    [
        ("otu other udp 1.2.3.4:5 > 1.2.3.4:6", 1, "did you mean 'out'"),
        ("out othr udp 1.2.3.4:5 > 1.2.3.4:6", 5, "did you mean 'other'"),
        ("forward tunnel>ohter udp 1.2.3.4:5 > 1.2.3.4:6", 16, "did you mean 'other'"),
        ("forward tunnel udp 1.2.3.4:5 > 1.2.3.4:6", 9, "two interfaces, such as tunnel>other"),
        ("out tunnel>other udp 1.2.3.4:5 > 1.2.3.4:6", 5, "only a forwarded packet has two interfaces"),
        ("out other tpc 1.2.3.4:5 > 1.2.3.4:6", 11, "did you mean 'tcp'"),
        ("out other 300 1.2.3.4 > 1.2.3.4", 11, "0 to 255"),
        ("out other udp:3/4 1.2.3.4:5 > 1.2.3.4:6", 11, "udp has no type"),
        ("out other icmp6:3 ::1 > ::1", 11, "TYPE/CODE"),
        ("out other icmp6 ::1 > ::1", 11, "needs a type and a code"),
        ("out other icmp:8/0 ::1 > ::1", 11, "icmp belongs to IPv4: use icmp6"),
        ("out other udp 1.2.3:5 > 1.2.3.4:6", 15, "no IP address"),
        ("out other udp 1.2.3.4:5>1.2.3.4:6", 15, "with spaces around '>'"),
        ("out other udp 1.2.3.4:70000 > 1.2.3.4:6", 15, "0 to 65535"),
        ("out other udp 1.2.3.4 > 1.2.3.4:6", 15, "udp needs a port, such as 1.2.3.4:443"),
        ("out other gre 1.2.3.4:5 > 1.2.3.4", 15, "gre has no ports"),
        ("out other udp 1.2.3.4:5 1.2.3.4:6", 25, "expected '>'"),
        ("out other udp fe80::1%eth0 > fe80::2", 15, "leave out the zone"),
        ("out other udp 1.2.3.4:5 > 1.2.3.4:6 mrak=5", 37, "did you mean 'mark'"),
        ("out other udp 1.2.3.4:5 > 1.2.3.4:6 mark=x", 37 + 5, "a number from 0 to 4294967295"),
        ("out other udp 1.2.3.4:5 > 1.2.3.4:6 state=rpely", 37 + 6, "did you mean 'reply'"),
        ("out other udp 1.2.3.4:5 > 1.2.3.4:6 uid=1 uid=2", 43, "given twice"),
        ("out other udp 1.2.3.4:5 > 1.2.3.4:6 more", 37, "too much"),
        ("out other", 10, "expected a protocol"),
        ("", 1, "expected a direction"),
    ],
)
def test_a_typo_is_named_with_its_place_and_the_right_word(text: str, column: int, says: str) -> None:
    with pytest.raises(PacketError) as caught:
        parse_packet(text)
    assert str(caught.value).startswith(f"column {column}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.pointing().splitlines()[1].index("^") == column + 1


@pytest.mark.parametrize("seed", range(20))
def test_text_of_facts_reads_as_the_same_facts(seed: int) -> None:
    rng = random.Random(seed)
    policy = random_policy(rng, LINUX, "wg0")
    for _ in range(50):
        facts = random_facts(rng, policy)
        again = parse_packet(packet_text(facts))
        assert packet_text(again) == packet_text(facts)
        assert (again.src, again.dst, again.proto, again.sport, again.dport) == (
            facts.src, facts.dst, facts.proto, facts.sport, facts.dport,
        )  # fmt: skip


@given(st.text(max_size=80) | st.from_regex(r"(out|in|forward) (other|tunnel>other) [a-z0-9:/]+ \S+ > \S+( \S+=\S+)*"))
def test_any_text_is_a_packet_or_an_error_with_a_place(text: str) -> None:
    wrong = None
    try:
        parse_packet(text)
    except PacketError as error:
        wrong = error
    assert wrong is None or 0 <= wrong.start <= len(text)
