"""What a bridge is told by, and that its password shows nowhere."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from engine.bridge import BridgeSettings, Kind, parse_endpoint


def test_a_bridge_is_read_from_one_line() -> None:
    tcp = BridgeSettings.parse("udp-over-tcp:203.0.113.9:443")
    assert (tcp.kind, str(tcp.ip), tcp.port, tcp.transport) == (Kind.UDP_OVER_TCP, "203.0.113.9", 443, "tcp")
    assert str(tcp) == "udp-over-tcp 203.0.113.9:443"
    shadow = BridgeSettings.parse("shadowsocks:[2001:db8::9]:8388", "secret")
    assert (str(shadow.ip), shadow.transport, str(shadow)) == ("2001:db8::9", "udp", "shadowsocks [2001:db8::9]:8388")


def test_the_password_is_in_no_text_of_the_settings() -> None:
    settings = BridgeSettings.parse("shadowsocks:203.0.113.9:8388", "hunter2")
    assert settings.password == "hunter2"
    assert "hunter2" not in f"{settings} {settings!r}"


@pytest.mark.parametrize(
    ("text", "password", "words"),
    [
        ("tor:203.0.113.9:443", "", "no bridge of the kind 'tor'"),
        ("udp-over-tcp", "", "is not an IP address, a colon and a port"),
        ("udp-over-tcp:203.0.113.9", "", "is not an IP address, a colon and a port"),
        ("udp-over-tcp:bridge.example:443", "", "is not an IP address"),
        ("udp-over-tcp:203.0.113.9:0", "", "port must be 1 to 65535"),
        ("udp-over-tcp:203.0.113.9:65536", "", "port must be 1 to 65535"),
        ("udp-over-tcp:203.0.113.9:+1", "", "port must be 1 to 65535"),
        ("udp-over-tcp:2001:db8::9:443", "", "stands in brackets"),
        ("udp-over-tcp:[203.0.113.9]:443", "", "stands in brackets"),
        ("udp-over-tcp:0.0.0.0:443", "", "must name one host"),
        ("udp-over-tcp:203.0.113.9:443", "secret", "has no password"),
        ("shadowsocks:203.0.113.9:443", "", "needs a password"),
    ],
)
def test_what_is_no_bridge_is_refused_in_one_sentence(text: str, password: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        BridgeSettings.parse(text, password)


def test_a_refusal_does_not_tell_the_password() -> None:
    with pytest.raises(ValueError, match="has no password") as refusal:
        BridgeSettings.parse("udp-over-tcp:203.0.113.9:443", "hunter2")
    assert "hunter2" not in str(refusal.value)


def test_only_shadowsocks_makes_packets_larger() -> None:
    v4, v6 = ip_address("198.51.100.7"), ip_address("2001:db8::7")
    shadow = BridgeSettings.parse("shadowsocks:203.0.113.9:8388", "secret")
    assert (shadow.overhead(v4), shadow.overhead(v6)) == (55, 67)
    assert BridgeSettings.parse("udp-over-tcp:203.0.113.9:443").overhead(v6) == 0


@pytest.mark.parametrize("text", ["127.0.0.1:1", "[::1]:65535"])
def test_an_endpoint_is_read(text: str) -> None:
    ip, port = parse_endpoint(text)
    assert text in (f"{ip}:{port}", f"[{ip}]:{port}")
