"""The relay list: checked, chosen from by constraints, in an order of weights."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.daemon import relays
from engine.daemon.relays import CANDIDATES, MAX_WEIGHT, choose, fits
from engine.daemon.store import Unreadable
from engine.management.schema import Relay, RelayBridge, RelayChoice, RelayList

KEY = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="


def relay(hostname: str, **fields: object) -> Relay:
    some = {"country": "se", "city": "sto", "public_key": KEY, "ipv4": "198.51.100.1"}
    return Relay(hostname=hostname, **{**some, **fields})  # type: ignore[arg-type]


words = st.sampled_from(["", "a", "b"])
some_relays = st.lists(
    st.builds(
        relay,
        st.uuids().map(str),
        country=words,
        city=words,
        ipv6=st.sampled_from([None, "2001:db8::1"]),
        weight=st.integers(0, 3),
        active=st.booleans(),
    ),
    max_size=30,
    unique_by=lambda one: one.hostname,
).map(lambda found: RelayList(relays=tuple(found)))
choices = st.builds(RelayChoice, st.just("me"), country=words, city=words, ip_version=st.sampled_from([4, 6]))
seeds = st.binary(min_size=16, max_size=16)


@given(some_relays, choices, seeds)
def test_only_relays_that_fit_are_tried_each_once_and_weight_0_last(
    found: RelayList, choice: RelayChoice, seed: bytes
) -> None:
    chosen = choose(found, choice, seed)
    assert len(set(chosen)) == len(chosen) == min(CANDIDATES, sum(fits(relay, choice) for relay in found.relays))
    for one in chosen:
        assert one.active
        assert choice.country in ("", one.country)
        assert choice.city in ("", one.city)
        assert one.ipv6 is not None or choice.ip_version == 4
    weights = [one.weight > 0 for one in chosen]
    assert weights == sorted(weights, reverse=True)


@given(some_relays, choices, seeds)
def test_the_order_depends_on_the_seed_and_not_on_what_else_fits(
    found: RelayList, choice: RelayChoice, seed: bytes
) -> None:
    chosen = choose(found, choice, seed)
    assert choose(RelayList(relays=found.relays[::-1]), choice, seed) == chosen
    fewer = RelayList(relays=tuple(one for one in found.relays if one not in chosen[::2]))
    left = [one for one in chosen[1::2] if one in choose(fewer, choice, seed)]
    assert left == [one for one in choose(fewer, choice, seed) if one in chosen]


def test_who_weighs_more_comes_first_more_often() -> None:
    found = RelayList(relays=(relay("light", weight=1), relay("heavy", weight=3)))
    first = Counter(choose(found, RelayChoice("me"), number.to_bytes(16))[0].hostname for number in range(2000))
    assert 0.70 < first["heavy"] / 2000 < 0.80  # 3 of 4; the seeds are fixed


def test_constraints_know_no_case_and_name_a_single_relay_too() -> None:
    found = RelayList(relays=(relay("se-1"), relay("de-1", country="de", city="Berlin")))
    for choice in (
        RelayChoice("me", country="DE"),
        RelayChoice("me", city="berlin"),
        RelayChoice("me", hostname="DE-1"),
    ):
        assert [one.hostname for one in choose(found, choice, bytes(16))] == ["de-1"]
    assert choose(found, RelayChoice("me", country="de", city="sto"), bytes(16)) == ()


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (relay(""), "a hostname of its own"),
        (relay("r", public_key="abc"), "relay 'r': public_key"),
        (relay("r", ipv4="2001:db8::1"), "relay 'r': ipv4"),
        (relay("r", ipv4="0.0.0.0"), "one host"),
        (relay("r", ipv6="198.51.100.1"), "relay 'r': ipv6"),
        (relay("r", port=0), "port"),
        (relay("r", gateways=("10.0.0.300",)), "relay 'r': gateways"),
        (relay("r\x1b[2J"), "hostname: .* visible"),
        (relay("r", city="x" * 254), "city: at most 253"),
        (relay("r", gateways=tuple(f"10.0.0.{n}" for n in range(9))), "gateways: at most 8"),
        (relay("r", weight=-1), "weight"),
        (relay("r", weight=MAX_WEIGHT + 1), "^relay 'r': weight must be 0 to 1,000,000$"),
        (relay("r", weight=2**63), "^relay 'r': weight must be 0 to 1,000,000$"),
        (relay("r", weight=10**400), "^relay 'r': weight must be 0 to 1,000,000$"),  # more than a float holds
        (relay("r", bridges=(RelayBridge("udp-over-tcp", 99999),)), "bridges"),  # type: ignore[arg-type]
    ],
)
def test_a_list_that_cannot_be_is_refused_by_relay_and_field(one: Relay, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        relays.check(RelayList(relays=(one,)))


def test_two_relays_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="of its own"):
        relays.check(RelayList(relays=(relay("r"), relay("r"))))


def test_a_list_that_would_not_fit_in_an_answer_is_refused() -> None:
    many = RelayList(relays=tuple(relay(f"relay-{n}") for n in range(5000)))
    with pytest.raises(ValueError, match="longer than"):
        relays.check(many)


def test_the_list_comes_back_and_a_broken_one_is_unreadable(tmp_path: Path) -> None:
    found = RelayList(relays=(relay("r", gateways=("10.64.0.1",)),))
    assert relays.load(tmp_path) == RelayList()
    relays.save(tmp_path, found)
    assert relays.load(tmp_path) == found
    assert msgspec.json.decode((tmp_path / "relays.json").read_bytes(), type=RelayList) == found  # as the schema has it
    (tmp_path / "relays.json").write_text('{"version": 1, "relays": [{"hostname": "r"}]}')
    with pytest.raises(Unreadable):
        relays.load(tmp_path)


def test_the_greatest_weight_is_one() -> None:
    relays.check(RelayList(relays=(relay("r", weight=MAX_WEIGHT),)))
