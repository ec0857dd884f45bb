"""Settings: what cannot be is refused as a whole, and what cannot be read leaves nothing open."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from engine.daemon import settings, store
from engine.management.schema import Bridge, BridgeKind, RelayChoice, Settings, SettingsPatch, TunnelChoice


def test_no_file_means_the_defaults_and_a_written_one_comes_back(tmp_path: Path) -> None:
    assert settings.load(tmp_path) == settings.Loaded(Settings())
    wanted = Settings(allow_lan=True, auto_connect=True, dns=("9.9.9.9",), choice=TunnelChoice("se1"))
    settings.save(tmp_path, wanted)
    assert settings.load(tmp_path) == settings.Loaded(wanted)
    assert stat.S_IMODE((tmp_path / "settings.json").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b'{"version": 1, "settings": null}',
        b'{"version": 1, "settings": {"allow_lan": "yes"}}',
        b'{"version": 1, "settings": {"allow_wan": true}}',
        b'{"version": 1, "settings": {"dns": ["nine"]}}',
        b'{"version": 1, "settings": {"mtu": 100}}',
        b'{"version": 99, "settings": {}}',
        bytes(range(0x80, 0xC0)),
    ],
)
def test_settings_that_cannot_be_read_require_the_vpn_always_and_are_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "settings.json").write_bytes(content)
    loaded = settings.load(tmp_path)
    assert loaded.settings == Settings(always_require_vpn=True)
    assert "always-require-VPN on" in loaded.notice
    assert (tmp_path / "settings.json.broken-1").read_bytes() == content
    assert settings.load(tmp_path).settings.always_require_vpn  # and so at the start after


def test_broken_settings_that_cannot_be_put_aside_are_found_broken_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "settings.json").write_bytes(b"broken")
    monkeypatch.setattr(store, "write", full)
    for _ in range(2):
        assert settings.load(tmp_path).settings.always_require_vpn
    assert (tmp_path / "settings.json").read_bytes() == b"broken"


def test_a_patch_changes_what_it_names_and_nothing_else() -> None:
    before = Settings(allow_lan=True, mtu=1400, choice=TunnelChoice("se1"))
    after = settings.patched(before, SettingsPatch(mtu=None, dns=("10.0.0.53", "2620:fe::9")))
    assert after == Settings(allow_lan=True, mtu=None, dns=("10.0.0.53", "2620:fe::9"), choice=TunnelChoice("se1"))


@pytest.mark.parametrize(
    ("patch", "words"),
    [
        (SettingsPatch(dns=("9.9.9.9", "nine")), "dns: 'nine' is no IP address"),
        (SettingsPatch(dns=("0.0.0.0",)), "dns: .*one host"),
        (SettingsPatch(dns=("224.0.0.1",)), "dns: .*one host"),
        (SettingsPatch(dns=tuple(f"10.0.0.{n}" for n in range(9))), "dns: at most 8"),
        (SettingsPatch(mtu=1279), "MTU must be 1280 to 65535"),
        (SettingsPatch(mtu=65536), "MTU must be 1280 to 65535"),
        (SettingsPatch(api="203.0.113.7:443"), "api: .* is no endpoint"),
        (SettingsPatch(api="api.example:443/tcp"), "api: "),
        (SettingsPatch(choice=RelayChoice("me", ip_version=5)), "ip_version must be 4 or 6"),
        (SettingsPatch(choice=RelayChoice("me", city="x" * 300)), "city: at most 253"),
        (SettingsPatch(choice=RelayChoice("me", country="\n")), "country: .* visible"),
        (SettingsPatch(allow_lan=True, mtu=0), "MTU"),
    ],
)
def test_a_value_that_cannot_be_is_named(patch: SettingsPatch, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings.patched(Settings(), patch)


@pytest.mark.parametrize("endpoint", ["bridge.example:443", "203.0.113.9", "203.0.113.9:0", "2001:db8::9:443", ""])
def test_a_bridge_is_an_address_and_a_port(endpoint: str) -> None:
    with pytest.raises(ValueError, match="bridge: "):
        settings.bridge_of(Bridge(BridgeKind.UDP_OVER_TCP, endpoint), "")


@pytest.mark.parametrize(
    ("kind", "cipher", "password", "words"),
    [
        (BridgeKind.SHADOWSOCKS, "rot13", "secret", "no cipher 'rot13'"),
        (BridgeKind.SHADOWSOCKS, "", "secret", "no cipher ''"),
        (BridgeKind.SHADOWSOCKS, "aes-256-gcm", "", "needs a password"),
        (BridgeKind.UDP_OVER_TCP, "aes-256-gcm", "", "has no cipher"),
        (BridgeKind.UDP_OVER_TCP, "", "secret", "has no password"),
    ],
)
def test_a_bridge_has_what_its_kind_needs(kind: BridgeKind, cipher: str, password: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        settings.bridge_of(Bridge(kind, "203.0.113.9:443", cipher), password)
    assert "secret" not in str(caught.value)
    settings.check_bridge(Bridge(BridgeKind.AUTO), "")
    for wrong in (Bridge(BridgeKind.AUTO, "203.0.113.9:443"), Bridge(BridgeKind.AUTO, "", "aes-256-gcm")):
        with pytest.raises(ValueError, match="auto takes the relays' own bridges"):
            settings.check_bridge(wrong, "")
    good = Bridge(BridgeKind.SHADOWSOCKS, "[2001:db8::9]:443", "aes-256-gcm")
    settings.check(msgspec.structs.replace(Settings(), bridge=good))  # its password is elsewhere
