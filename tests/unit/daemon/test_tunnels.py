"""Imported tunnels: names that are no paths, files for root alone, keys that are never told."""

from __future__ import annotations

import stat
from pathlib import Path

import msgspec
import pytest

from engine.daemon.store import Unreadable
from engine.daemon.tunnels import Tunnels
from engine.wg.conf import ConfError

PRIVATE = "4Dy0vWsmbnJxmdBjbJ5F7Yz+Zx+tD4QZ8dGtrC3cf1Y="
SERVER = "HIgo9xNzJMWLKASShiTqIybxZ0U3wGLiUeJ1PKf8ykw="
PSK = "FpCyhws9cxwWoV4xELtfJvjJN+zQVRPISllRWgeopVE="
CONF = f"""[Interface]
PrivateKey = {PRIVATE}
Address = 10.64.0.2/32, fc00:64::2/128
DNS = 10.64.0.1
[Peer]
PublicKey = {SERVER}
PresharedKey = {PSK}
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = vpn.example:51820
"""


def test_an_imported_tunnel_is_listed_without_its_secrets(tmp_path: Path) -> None:
    tunnels = Tunnels(tmp_path)
    assert tunnels.list() == ()
    imported = tunnels.add("se1", CONF)
    assert tunnels.list() == (imported.tunnel,)
    assert imported.tunnel.endpoint == "vpn.example:51820"
    assert tunnels.host_names("se1") == {"vpn.example"}
    told = msgspec.json.encode(imported).decode()
    assert PRIVATE not in told
    assert PSK not in told
    assert tunnels.load("se1").device.private_key is not None


def test_the_files_are_roots_alone(tmp_path: Path) -> None:
    Tunnels(tmp_path).add("se1", CONF)
    folder = tmp_path / "tunnels"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "se1.conf").stat().st_mode) == 0o600


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", ".hidden", "-x", "a b", "a\n", "ä", "x" * 65, "a\0"])
def test_a_name_that_could_be_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        Tunnels(tmp_path).add(name, CONF)
    with pytest.raises(KeyError):
        Tunnels(tmp_path).load(name)
    assert list(tmp_path.rglob("*.conf")) == []


def test_a_tunnel_is_replaced_only_on_request_and_removed_once(tmp_path: Path) -> None:
    tunnels = Tunnels(tmp_path)
    tunnels.add("se1", CONF)
    with pytest.raises(ValueError, match="there is a tunnel se1 already"):
        tunnels.add("se1", CONF)
    tunnels.add("se1", CONF.replace("vpn.example", "198.51.100.1"), replace_it=True)
    assert tunnels.host_names("se1") == frozenset()
    tunnels.remove("se1")
    with pytest.raises(KeyError):
        tunnels.remove("se1")


def test_hooks_are_told_of_and_not_kept(tmp_path: Path) -> None:
    text = CONF.replace("DNS =", "PostUp = iptables -F\nSaveConfig = true\nDNS =")
    imported = Tunnels(tmp_path).add("se1", text)
    assert imported.notices == ("PostUp is ignored: molehill runs no commands from a configuration",)
    assert "iptables" not in (tmp_path / "tunnels" / "se1.conf").read_text()


def test_a_file_without_a_server_lends_its_keys_only(tmp_path: Path) -> None:
    imported = Tunnels(tmp_path).add("me", CONF.partition("[Peer]")[0])
    assert imported.tunnel.endpoint is None
    assert "lend its key" in imported.notices[0]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (f"PrivateKey = {PRIVATE}\n", "", "PrivateKey is missing"),
        ("Address = 10.64.0.2/32, fc00:64::2/128\n", "", "Address is missing"),
        ("DNS =", "MTU = 1200\nDNS =", "MTU must be 1280"),
        ("AllowedIPs = 0.0.0.0/0, ::/0\n", "", "no .Peer. has AllowedIPs"),
        ("DNS =", "DNS = " + ", ".join(f"10.0.0.{n}" for n in range(17)) + "\n#", "DNS: at most 16, not 17"),
        ("10.64.0.2/32", "0.0.0.0/0", "a tunnel's addresses must name one host, not 0.0.0.0"),
        ("vpn.example:51820", "224.0.0.1:5", "an endpoint's address must name one host, not 224.0.0.1"),
        ("DNS = 10.64.0.1", "DNS = 224.0.0.1", "a tunnel's gateways must name one host, not 224.0.0.1"),
        ("[Interface]", "[Interlace]", "line 1"),
    ],
)
def test_a_file_that_could_never_be_a_tunnel_is_refused(tmp_path: Path, old: str, new: str, words: str) -> None:
    with pytest.raises(ValueError, match=words) as caught:
        Tunnels(tmp_path).add("se1", CONF.replace(old, new))
    assert PRIVATE not in str(caught.value)
    assert isinstance(caught.value, ConfError) == ("line" in words)
    assert Tunnels(tmp_path).names() == []


@pytest.mark.parametrize(("old", "new"), [("10.64.0.2/32", "0.0.0.0/0"), ("DNS = 10.64.0.1", "DNS = 224.0.0.1")])
def test_a_file_that_only_lends_its_keys_is_checked_as_well(tmp_path: Path, old: str, new: str) -> None:
    with pytest.raises(ValueError, match="must name one host"):
        Tunnels(tmp_path).add("me", CONF.partition("[Peer]")[0].replace(old, new))


def test_a_broken_file_is_left_out_of_the_list_and_unreadable(tmp_path: Path) -> None:
    tunnels = Tunnels(tmp_path)
    tunnels.add("se1", CONF)
    (tmp_path / "tunnels" / "se2.conf").write_text("[Interface]\nPrivateKey = x\n")
    (tmp_path / "tunnels" / "not a name.conf").write_text(CONF)
    assert [tunnel.name for tunnel in tunnels.list()] == ["se1"]
    with pytest.raises(Unreadable, match="line 2: PrivateKey"):
        tunnels.load("se2")
