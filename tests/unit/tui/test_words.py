"""What the screen says, word for word."""

from __future__ import annotations

import itertools
import time
from collections import deque
from ipaddress import ip_address

import msgspec
import pytest

from engine.management.schema import Count, FirewallDrop, PeerInfo, RelayChoice, Settings, SettingsPatch, TunnelChoice
from engine.policy import Platform, Policy, State, rules_for
from engine.policy.nets import is_local
from engine.tui import words
from engine.tui.letters import ROWS, big
from engine.tui.meter import Meter, sparkline
from native.reasons import Reason
from tests import management_fake as fake
from tests.judging import BRIDGE, RELAY, TUNNEL


def policies() -> list[Policy]:
    """Every state, with and without a bridge."""
    return [
        Policy(state, platform=Platform.LINUX, peer=RELAY, bridge=bridge, tunnel=TUNNEL)
        for state, bridge in itertools.product((State.CONNECTING, State.CONNECTED, State.ERROR), (None, BRIDGE))
    ]


def test_every_rule_that_can_only_block_has_its_words() -> None:
    rules = [rule for policy in policies() for rule in rules_for(policy)]
    permitting = {rule.id for rule in rules if rule.accept}
    assert {rule.id for rule in rules if not rule.accept} - permitting == set(words.RULES)


def test_every_reason_for_a_drop_has_its_words() -> None:
    assert set(words.REASONS) == {reason.word for reason in Reason} - {"none", "policy"}


def test_the_words_for_drops_fit_beside_their_counts_at_80_columns() -> None:
    assert max(map(len, [*words.RULES.values(), *words.REASONS.values(), *words.FIREWALL.values()])) <= 25


@pytest.mark.parametrize(
    "server", ["10.64.0.1", "172.31.255.255", "172.32.0.1", "192.168.1.1", "169.254.1.1", "127.0.0.53", "100.64.0.7",
               "9.9.9.9", "192.0.2.1", "::1", "fe80::1", "fd00::53", "2001:db8::1", "2620:fe::fe"]
)  # fmt: skip
def test_dns2_a_server_is_local_here_where_it_is_in_the_policy(server: str) -> None:
    assert words.is_local(server) is is_local(ip_address(server))


def test_an_error_says_its_cause_and_an_attempt_its_problem() -> None:
    assert words.sentence(fake.ERROR) == f"Everything is blocked: {fake.ERROR.cause}"
    trying = msgspec.structs.replace(fake.CONNECTING, attempt=1, problem="no answer")
    assert words.sentence(trying) == "Blocked until the tunnel is up, attempt 2: no answer"
    again = msgspec.structs.replace(fake.CONNECTING, cause="the DNS servers could not be set")
    assert "the DNS servers could not be set" in words.sentence(again)  # ERR-2: told until it is connected


def test_only_an_open_disconnected_says_that_nothing_is_blocked() -> None:
    for status in (fake.DISCONNECTED, fake.CONNECTING, fake.CONNECTED, fake.DISCONNECTING, fake.ERROR):
        assert ("Nothing is blocked" in words.sentence(status)) == (status is fake.DISCONNECTED)
    locked = msgspec.structs.replace(fake.DISCONNECTED, blocks=True)
    assert words.sentence(locked).startswith("Everything is blocked")


def test_drops_are_by_rule_and_by_reason_and_each_packet_is_counted_once() -> None:
    verdicts = {"CTD-1": Count(900, 1), "P-0": Count(4, 1), "CTD-2": Count(30, 1), "DNS-3": Count(0, 0)}
    firewall = (FirewallDrop("P-0", "out", 3, 252), FirewallDrop("P-0", "in", 2041, 99), FirewallDrop("x", "up", 2, 9))
    status = msgspec.structs.replace(
        fake.CONNECTED,
        verdicts=verdicts,
        drops={"policy": 34, "replay": 7, "new": 1},
        firewall_drops=firewall,
    )
    assert words.drops(status) == [
        (2041, "firewall: incoming", "P-0"),
        (30, "DNS to a foreign server", "CTD-2"),
        (7, "replayed", "replay"),
        (4, "no rule permits it", "P-0"),
        (3, "firewall: outgoing", "P-0"),
        (2, "up", "x"),  # of a daemon that is newer than we are, and likewise
        (1, "new", "new"),  # of a daemon that is newer than we are
    ]


OPEN = Settings()
TIGHT = Settings(always_require_vpn=True)


@pytest.mark.parametrize(
    ("before", "patch", "state", "asked"),
    [
        (OPEN, SettingsPatch(allow_lan=True), "connected", "Allow the local network?"),
        (Settings(allow_lan=True), SettingsPatch(allow_lan=False), "connected", None),
        (TIGHT, SettingsPatch(always_require_vpn=False), "disconnected", "No longer require a VPN?"),
        (OPEN, SettingsPatch(always_require_vpn=True), "disconnected", None),
        (Settings(auto_connect=True), SettingsPatch(auto_connect=False), "connected", "No longer connect at start?"),
        (Settings(auto_connect=True, always_require_vpn=True), SettingsPatch(auto_connect=False), "connected", None),
        (OPEN, SettingsPatch(auto_connect=True), "connected", None),
        (OPEN, SettingsPatch(dns=("9.9.9.9", "10.0.0.1")), "connected", "Ask a DNS server outside the tunnel?"),
        (Settings(dns=("10.0.0.1",)), SettingsPatch(dns=("10.0.0.1", "9.9.9.9")), "connected", None),
        (OPEN, SettingsPatch(mtu=1280), "connected", None),
        (OPEN, SettingsPatch(choice=TunnelChoice("home")), "connected", None),
    ],
)
def test_a_change_is_asked_about_exactly_where_it_opens_something(
    before: Settings, patch: SettingsPatch, state: str, asked: str | None
) -> None:
    opened = words.opens(before, patch, state)
    assert (opened[0] if opened is not None else None) == asked


def test_that_an_open_change_takes_effect_at_once_is_said() -> None:
    patch = SettingsPatch(always_require_vpn=False)
    assert (words.opens(TIGHT, patch, "disconnected") or ("", ""))[1].startswith("At once")
    assert (words.opens(TIGHT, patch, "connected") or ("", ""))[1].startswith("Whenever")


def test_choices_and_dns_in_few_words() -> None:
    assert words.choice(None) == "none"
    assert words.choice(TunnelChoice("work")) == "work"
    assert words.choice(RelayChoice("home")) == "any relay"
    assert words.choice(RelayChoice("home", "se", "gothenburg")) == "se, gothenburg"
    assert words.choice(RelayChoice("home", "se", "gothenburg", "se-got-1")) == "se-got-1"
    assert [words.dns(()), words.dns(("9.9.9.9",)), words.dns(("2620:fe::fe:1234:5678",))] == [
        "the relay's",
        "9.9.9.9",
        "1 custom",
    ]


def test_numbers_have_units_and_stay_short() -> None:
    assert [words.size(n) for n in (0, 1023, 1024, 5 << 30, 3 << 50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "5.0 GiB",
        "3072.0 TiB",
    ]
    assert [words.rate(n) for n in (0, 124, 12_500, 1.25e6, 7.5e8)] == [
        "0 bit/s",
        "992 bit/s",
        "100.0 kbit/s",
        "10.0 Mbit/s",
        "6.00 Gbit/s",
    ]
    assert [words.number(n) for n in (0, 99_999, 123_456, 12_345_678, 10**12)] == [
        "0",
        "99999",
        "123k",
        "12M",
        "1000000M",
    ]
    assert [words.duration(n) for n in (-5, 59, 61, 7523, 90_000)] == [
        "0 s",
        "59 s",
        "1 min 1 s",
        "2 h 5 min",
        "1 d 1 h",
    ]


def test_a_time_of_another_day_has_its_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    assert words.moment(fake.NOW, fake.NOW + 60) == "18:50:12"
    assert words.moment(fake.NOW, fake.NOW + 86400) == "2026-11-23 18:50:12"


def test_each_state_can_be_written_in_big_letters_within_80_columns() -> None:
    for word in [*(state.upper() for state in State), words.NO_ANSWER]:
        lines = big(word).split("\n")
        assert len(lines) == ROWS
        assert len({len(line) for line in lines}) == 1
        assert len(lines[0]) <= 70


def fed(meter: Meter, at: float, rx: int, tx: int) -> None:
    meter.feed(at, msgspec.structs.replace(fake.CONNECTED, peers=(PeerInfo(fake.KEY, None, None, rx, tx),)))


def test_rates_come_from_counters_and_the_time_between_them() -> None:
    meter = Meter()
    fed(meter, 100.0, 1000, 10)
    fed(meter, 102.0, 5000, 10)
    assert (list(meter.received), list(meter.sent)) == ([2000.0], [0.0])


def test_an_event_between_two_looks_makes_no_rate_of_its_own() -> None:
    meter = Meter()
    fed(meter, 100.0, 0, 0)
    fed(meter, 100.1, 500, 0)
    fed(meter, 101.0, 1000, 0)
    assert list(meter.received) == [1000.0]


def test_a_new_tunnel_and_a_pause_are_no_traffic() -> None:
    meter = Meter()
    fed(meter, 100.0, 10_000, 10_000)
    fed(meter, 101.0, 0, 0)  # its counters begin anew
    fed(meter, 200.0, 10_000_000, 0)  # the daemon was gone
    assert list(meter.received) == [0.0, 0.0]


def test_bars_have_the_newest_at_the_right_and_the_least_is_seen() -> None:
    assert sparkline(deque([0.0, 1.0, 1e6]), 5) == "   ▁▇"
    assert sparkline(deque([4.0, 8.0]), 2, 2).split("\n") == [" ▇", "██"]
    assert sparkline(deque(), 3) == "   "
