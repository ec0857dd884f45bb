"""Settings as text become the policy that they say, or one sentence that names the setting."""

from ipaddress import ip_address

import pytest

from engine.explain.settings import parse_settings, policy_of
from engine.policy import Hop, Platform, Policy, Protocol, State, Tunnel
from tests.unit.explain.support import EVERYTHING


def test_every_setting_is_read() -> None:
    text = (
        "connecting platform=windows allow-lan always-require-vpn peer=198.51.100.7:51820/udp"
        " bridge=[2001:db8::9]:443/tcp api=192.0.2.80:443/tcp"
        " tunnel=wg0 tunnel-address=10.64.0.2 gateway=10.64.0.1 gateway=fc00::1 dns=9.9.9.9"
    )
    assert parse_settings(text, {}) == Policy(
        State.CONNECTING, Platform.WINDOWS, True, True,
        Hop(ip_address("198.51.100.7"), 51820, Protocol.UDP), Hop(ip_address("2001:db8::9"), 443, Protocol.TCP),
        Hop(ip_address("192.0.2.80"), 443, Protocol.TCP),
        Tunnel("wg0", (ip_address("10.64.0.2"),), (ip_address("10.64.0.1"), ip_address("fc00::1"))),
        (ip_address("9.9.9.9"),),
    )  # fmt: skip


def test_a_setting_of_the_text_replaces_the_one_of_the_base() -> None:
    policy = parse_settings("connected gateway=10.0.0.1 allow-lan=no", {**EVERYTHING, "allow-lan": ["yes"]})
    assert policy.tunnel is not None
    assert policy.tunnel.gateways == (ip_address("10.0.0.1"),)
    assert not policy.allow_lan


def test_connected_has_a_tunnel_and_disconnecting_a_state_before_it() -> None:
    connected = policy_of({"state": ["connected"]})
    assert connected.tunnel == Tunnel("molehill0", (), ())
    mac = policy_of({"state": ["connected"], "platform": ["macos"]})
    assert mac.tunnel is not None
    assert mac.tunnel.name == "utun4"
    assert policy_of({"state": ["disconnecting"]}).kept is State.CONNECTED
    assert policy_of({"state": ["disconnecting"], "kept": ["error"]}).kept is State.ERROR
    assert policy_of({"state": ["error"]}).tunnel is None


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "name a state"),
        ("conected", "did you mean 'connected'"),
        ("connected alow-lan", "did you mean 'allow-lan'"),
        ("connected zzz=1", "use one of"),
        ("connected state=error", "'state' is no setting"),
        ("connected dns", "dns needs a value"),
        ("connected dns=9.9.9", "dns: '9.9.9' is no IP address"),
        ("connected dns=224.0.0.1", "custom DNS servers must name one host"),
        ("connecting peer=198.51.100.7:51820", "peer: .* is no endpoint, such as"),
        ("connecting peer=198.51.100.7:0/udp", "peer: an endpoint's port"),
        ("connecting peer=2001:db8::7:51820/udp", "is no endpoint"),
        ("connected allow-lan=maybe", "allow-lan is yes or no"),
        ("connected kept=error", "kept belongs to disconnecting"),
        ("connected platform=linus", "did you mean 'linux'"),
        ("connected ios-blocking", "belongs to iOS alone"),
        ("connected tunnel=a/b", "a tunnel's name"),
    ],
)
def test_a_wrong_setting_is_one_sentence(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        parse_settings(text, {})
    assert "\n" not in str(caught.value)
