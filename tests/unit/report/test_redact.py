"""What identifies somebody does not survive, wherever it stands; what does not, stays as it is."""

from __future__ import annotations

import base64
import string
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engine.report.redact import redact

BETWEEN = st.text(" \n\t,;=[](){}<>\"'|@/%#~!?*", max_size=5)
WORDS = st.text(string.ascii_letters + " \n.,;-_/()", max_size=30)
EXEMPT = {"127.0.0.1", "::1"}

keys = st.binary(min_size=32, max_size=32).map(lambda key: base64.b64encode(key).decode())
short_keys = st.binary(min_size=16, max_size=16).map(lambda key: base64.b64encode(key).decode())
ipv4 = st.ip_addresses(v=4).map(str).filter(lambda text: text not in EXEMPT)
ipv6 = st.ip_addresses(v=6)
macs = st.builds(
    lambda octets, mark, upper: mark.join(f"{o:02X}" if upper else f"{o:02x}" for o in octets),
    st.binary(min_size=6, max_size=6), st.sampled_from(":-"), st.booleans(),
)  # fmt: skip
hexes = st.binary(min_size=16, max_size=40).map(bytes.hex)
numbers = st.text("0123456789", min_size=16, max_size=16)


@st.composite
def ipv6_texts(draw: st.DrawFn) -> str:
    """Every way to write one: short, long, in capitals, with an IPv4 end."""
    address = draw(ipv6)
    texts = [address.compressed, address.exploded, address.compressed.upper()]
    texts.append(f"64:ff9b::{IPv4Address(int(address) & 0xFFFFFFFF)}")
    return draw(st.sampled_from([text for text in texts if text not in EXEMPT]))


@given(
    BETWEEN,
    st.one_of(keys, short_keys, ipv4, ipv6_texts(), macs, st.uuids().map(str), numbers, hexes),
    BETWEEN,
)  # fmt: skip
@example("", "e3e70682-c209-4cac-629f-6fbed82c07cd", "==")
@example("", "00" * 32, "=")
def test_nothing_that_has_a_form_survives_among_any_punctuation(before: str, secret: str, after: str) -> None:
    shown = redact(f"{before}{secret}{after}")
    assert secret not in shown
    assert redact(shown) == shown, "to redact twice is to redact once"
    assert shown.startswith(before)
    assert shown.endswith(after)


@given(WORDS, st.lists(st.one_of(keys, ipv4, ipv6_texts(), macs), min_size=1, max_size=5), WORDS)
def test_many_in_a_line_are_all_taken_out(before: str, secrets: list[str], after: str) -> None:
    shown = redact(f"{before} {', '.join(secrets)} {after}")
    assert not [secret for secret in secrets if secret in shown]


@given(st.sampled_from(["password", "Password", "passphrase", "PresharedKey", "PrivateKey", "private_key", "psk"]),
       st.sampled_from([" = ", "=", ": "]),
       st.text(string.ascii_letters + string.digits + " #!$%", min_size=8))  # fmt: skip
def test_a_password_goes_with_its_whole_line(name: str, mark: str, password: str) -> None:
    assert redact(f"{name}{mark}x{password}\nnext line") == f"{name}{mark}[removed]\nnext line"


@given(st.text(min_size=4))
def test_a_password_in_json_goes_whatever_is_in_it(password: str) -> None:
    import json

    line = json.dumps({"password": password, "mtu": 1420})
    assert redact(line) == '{"password": [removed], "mtu": 1420}'


@given(st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=12).filter(lambda n: n.strip(".")))
def test_home_folders_of_all_users_are_tildes(user: str) -> None:
    for home in (f"/home/{user}", f"/Users/{user}", f"/var/home/{user}", f"C:\\Users\\{user}", "/root"):
        assert redact(f"read {home}/x.conf: no") in ("read ~/x.conf: no", "read ~\\x.conf: no")
    assert redact("/srv/people/ann/x", homes=["/srv/people/ann"]) == "~/x"
    assert redact("/srv/people/anna/x", homes=["/srv/people/ann"]) == "/srv/people/anna/x"


def test_the_host_is_not_named_and_words_that_contain_its_name_stay() -> None:
    text = "ada.example.net and ADA, not adamant; kernel[ada]"
    assert redact(text, hosts=["ada", "ada.example.net"]) == "[host] and [host], not adamant; kernel[[host]]"


@pytest.mark.parametrize("exempt", sorted(EXEMPT))
def test_loopback_stays(exempt: str) -> None:
    assert redact(f"listening on {exempt}, [{exempt}]:53 and {exempt}.") == (
        f"listening on {exempt}, [{exempt}]:53 and {exempt}."
    )


def test_what_looks_like_loopback_goes() -> None:
    for text in ("127.0.0.11", "127.0.0.2", "::1:2", "fe80::1", "1::1", "::ffff:127.0.0.1"):
        assert redact(text) in ("[IPv4]", "[IPv6]")


def test_what_identifies_nobody_stays() -> None:
    text = (
        "2026-11-27T11:20:33Z info connected after 0.123 s, attempt 2, mtu 1420, rx 5000000 bytes, mark 0x6d6f6c65\n"
        "at 10:00:00 CTD-1 4, P-0 12; /etc/molehill/settings.json; /run/molehill; table inet molehill; nft v1.0.6\n"
        "/rootfs, 6.18.0-1-amd64, net.ipv4.conf.all.src_valid_mark=1, std pid 4242, 1795459812.25, b3:c4\n"
    )
    assert redact(text) == text


def test_a_uri_keeps_no_password() -> None:
    assert redact("ss://YWVzOnB3@vpn.example.net:8388") == "ss://[removed]@vpn.example.net:8388"


@pytest.mark.parametrize(
    "hostile", ["a:" * 60_000, "0123456789" * 12_000, "A" * 120_000, "1." * 60_000, "://" * 40_000]
)
def test_a_long_line_takes_linear_time(hostile: str) -> None:
    """It ends at all: a pattern that looks back and forth would take hours."""
    redact(hostile)


def test_no_address_of_a_whole_subnet_survives_a_routing_table() -> None:
    table = "\n".join(
        f"{IPv4Address(0x0A400000 + i)} via {IPv6Address((0x20010DB8 << 96) + i)} dev eth0" for i in range(500)
    )
    shown = redact(table)
    assert set(shown.split("\n")) == {"[IPv4] via [IPv6] dev eth0"}


def test_our_own_example_of_a_configuration_keeps_no_secret() -> None:
    from tests.unit.cli.test_commands import CONF

    shown = redact(CONF)
    assert "yAnz" not in shown
    assert "xTIB" not in shown
    assert "192.0.2.7" not in shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("2: enx0050b6a1b2c3: <BROADCAST>", "2: enx[MAC]: <BROADCAST>"),
        ("default dev wlx00c0caabcdef proto dhcp", "default dev wlx[MAC] proto dhcp"),
        ("at 0050.b6a1.b2c3 on", "at [MAC] on"),
        (f"blob {base64.b64encode(bytes(range(64))).decode()};", "blob [key];"),
        ("dev enxfoo", "dev enxfoo"),
    ],
)
def test_the_rarer_forms_are_known_too(text: str, shown: str) -> None:
    assert redact(text) == shown
