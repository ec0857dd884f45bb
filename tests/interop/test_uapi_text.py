"""The unmodified `wg` against our UAPI text: a socket served by the pure functions alone, no tunnel behind it."""

import errno
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from engine.wg.conf import ConfError, parse_conf, render_conf
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.keys import clamp, key_from_base64, key_to_base64, public_key
from engine.wg.uapi import Connection, Get, PeerFacts, UapiError, Update, apply_update, render_get, reply

RUN = Path("/var/run/wireguard")

pytestmark = [
    pytest.mark.skipif(
        not os.access(RUN if RUN.exists() else RUN.parent, os.W_OK),
        reason="`wg` looks for sockets in /var/run/wireguard, which this user may not write",
    ),
    pytest.mark.skipif(shutil.which("wg") is None, reason="needs wireguard-tools"),
]

SECRET = clamp(bytes(range(7, 39)))
PSK = bytes(range(50, 82))
A, B, C = (public_key(bytes([n]) * 32) for n in (1, 2, 3))
A_TEXT, B_TEXT, C_TEXT = map(key_to_base64, (A, B, C))

CONF = f"""[Interface]
PrivateKey = {key_to_base64(SECRET)}
ListenPort = 51820
FwMark = 0xca6c

[Peer]
PublicKey = {A_TEXT}
PresharedKey = {key_to_base64(PSK)}
AllowedIPs = 10.0.0.0/8, 2001:db8::/32
Endpoint = [2001:db8::1]:51820
PersistentKeepalive = 25

[Peer]
PublicKey = {B_TEXT}
AllowedIPs = 0.0.0.0/0
Endpoint = 192.0.2.1:443
"""


class Server:
    """Answers `wg` from a configuration held in memory."""

    def __init__(self) -> None:
        self.name = f"mh{os.getpid()}"
        self.config = DeviceConfig()
        self.facts: dict[bytes, PeerFacts] = {}
        self.refuse = 0
        self.path = RUN / f"{self.name}.sock"
        RUN.mkdir(mode=0o755, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.path.unlink()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                connection = Connection()
                while not connection.closed:
                    for request in connection.receive(client.recv(65536)):
                        client.sendall(self._answer(request).encode())

    def _answer(self, request: Get | Update | UapiError) -> str:
        match request:
            case Get():
                return reply(body=render_get(self.config, self.facts))
            case Update():
                if self.refuse:
                    return reply(self.refuse)
                self.config = apply_update(self.config, request)
                return reply()
            case UapiError():
                return reply(request.errno)

    def wg(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        args = (args[0], self.name, *args[1:])
        return subprocess.run(["wg", *args], capture_output=True, text=True, check=check, timeout=20)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "wg.conf"
    path.write_text(CONF)
    return path


def test_setconf_gives_what_the_file_says(server: Server, file: Path) -> None:
    server.wg("setconf", str(file))
    assert server.config == parse_conf(CONF).device


@pytest.mark.parametrize(
    "text",
    [
        CONF.replace("\n", "\r\n"),
        CONF.replace(" = ", "="),
        CONF.replace("PublicKey", "publickey").replace("[Peer]", "[PEER]"),
        CONF.replace("ListenPort = 51820", "ListenPort = 0").replace("0xca6c", "off"),
        CONF.replace("0xca6c", "51820").replace("= 25", "= off"),
        CONF.replace("\n", "   # a comment = [Peer]\n"),
        CONF.replace("\n[Peer]", "\n\t [Peer]  "),
        CONF.replace("10.0.0.0/8, 2001:db8::/32", "10.9.9.9/8,2001:db8::1/32") + "AllowedIPs = 10.0.0.0/8\n",
        CONF + "AllowedIPs = 192.0.2.7, 2001:DB8:0::7\n",
        CONF.replace("[2001:db8::1]:51820", "[2001:DB8:0::1]:51820"),
        CONF[CONF.index("[Peer]") :],
        CONF[CONF.index("[Peer]") :] + CONF[: CONF.index("[Peer]")],
        "",
    ],
)
def test_spellings_that_wg_accepts_mean_the_same_to_us(server: Server, file: Path, text: str) -> None:
    file.write_bytes(text.encode())
    server.wg("setconf", str(file))
    ours = parse_conf(text).device
    assert {peer.public_key: peer for peer in server.config.peers} == {peer.public_key: peer for peer in ours.peers}
    assert replace(server.config, peers=()) == replace(ours, peers=())


@pytest.mark.parametrize(
    "line",
    ["[Peers]", "PrivatKey = x", "FwMark = 0x100000000", "FwMark = -1", "PrivateKey = abc",
     "[Peer]\nAllowedIPs = 10.0.0.0/33", "[Peer]\nAllowedIPs = 10.0.0.0/8,", "[Peer]\nAllowedIPs = 10.0.0/8",
     "[Peer]\nEndpoint = 192.0.2.1", "[Peer]\nEndpoint = [::1]", "[Peer]\nEndpoint = 192.0.2.1:",
     "[Peer]\nPersistentKeepalive = 65536", "[Peer]\nPersistentKeepalive = on", "[Peer]"],
)  # fmt: skip
def test_what_wg_refuses_we_refuse(server: Server, file: Path, line: str) -> None:
    file.write_text(f"[Interface]\n{line}\n")
    assert server.wg("setconf", str(file), check=False).returncode == 1
    with pytest.raises(ConfError):
        parse_conf(file.read_bytes())


def test_setconf_accepts_the_files_we_render(server: Server, file: Path) -> None:
    file.write_text(render_conf(parse_conf(CONF)))
    server.wg("setconf", str(file))
    assert server.config == parse_conf(CONF).device


def test_showconf_is_read_back_as_the_same_configuration(server: Server) -> None:
    server.config = parse_conf(CONF).device
    assert parse_conf(server.wg("showconf").stdout).device == server.config


def test_setconf_replaces_everything_that_was_there(server: Server, file: Path) -> None:
    server.config = DeviceConfig(clamp(PSK), 1, 2, (PeerConfig(C, allowed_ips=(ip_network("10.0.0.0/8"),)),))
    server.wg("setconf", str(file))
    assert server.config == parse_conf(CONF).device


def test_addconf_adds_and_moves_but_removes_nothing(server: Server, file: Path) -> None:
    server.config = parse_conf(CONF).device
    file.write_text(f"[Peer]\nPublicKey = {C_TEXT}\nAllowedIPs = 10.0.0.0/8\n")
    server.wg("addconf", str(file))
    assert server.config.private_key == SECRET
    assert [(peer.public_key, peer.allowed_ips) for peer in server.config.peers] == [
        (A, (ip_network("2001:db8::/32"),)),
        (B, (ip_network("0.0.0.0/0"),)),
        (C, (ip_network("10.0.0.0/8"),)),
    ]


def test_syncconf_removes_vanished_peers_and_leaves_the_others(server: Server, file: Path) -> None:
    roamed = HostPort("198.51.100.7", 7)
    server.config = parse_conf(CONF).device.with_endpoints({A: roamed})
    without_b = CONF[: CONF.rindex("[Peer]")].replace("Endpoint = [2001:db8::1]:51820\n", "")
    file.write_text(without_b)
    server.wg("syncconf", str(file))
    (peer,) = server.config.peers
    assert (peer.public_key, peer.endpoint, peer.preshared_key) == (A, roamed, PSK)


def test_set_changes_one_thing_at_a_time(server: Server, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(key_to_base64(SECRET) + "\n")
    server.wg("set", "private-key", str(key_file), "listen-port", "1234", "fwmark", "0x10")
    assert server.config == DeviceConfig(SECRET, 1234, 16)

    key_file.write_text(key_to_base64(PSK) + "\n")
    server.wg(
        "set", "peer", A_TEXT, "preshared-key", str(key_file), "endpoint", "192.0.2.1:5", "persistent-keepalive",
        "25", "allowed-ips", "10.0.0.0/8,::/0",
    )  # fmt: skip
    expected = PeerConfig(A, PSK, HostPort("192.0.2.1", 5), 25, (ip_network("10.0.0.0/8"), ip_network("::/0")))
    assert server.config.peers == (expected,)

    server.wg("set", "peer", A_TEXT, "endpoint", "[fe80::1%lo]:6")
    server.wg("set", "peer", A_TEXT, "persistent-keepalive", "off", "preshared-key", "/dev/null", "allowed-ips", "")
    assert server.config.peers == (PeerConfig(A, endpoint=HostPort("fe80::1%lo", 6)),)

    server.wg("set", "peer", B_TEXT, "peer", A_TEXT, "remove")
    assert server.config.peers == (PeerConfig(B),)
    server.wg("set", "private-key", "/dev/null")
    assert server.config.private_key is None


def test_a_peer_with_the_devices_own_key_is_ignored(server: Server) -> None:
    server.config = DeviceConfig(SECRET)
    server.wg("set", "peer", key_to_base64(public_key(SECRET)), "allowed-ips", "::/0")
    assert server.config.peers == ()


def test_show_tells_handshake_transfer_and_endpoint(server: Server) -> None:
    server.config = parse_conf(CONF).device
    server.facts = {A: PeerFacts(1_700_000_000_000_000_001, rx_bytes=2**63 + 1, tx_bytes=42)}
    lines = [line.split("\t") for line in server.wg("show", "dump").stdout.splitlines()]
    assert lines == [
        [key_to_base64(SECRET), key_to_base64(public_key(SECRET)), "51820", "0xca6c"],
        [A_TEXT, key_to_base64(PSK), "[2001:db8::1]:51820", "10.0.0.0/8,2001:db8::/32", "1700000000",
         str(2**63 + 1), "42", "25"],
        [B_TEXT, "(none)", "192.0.2.1:443", "0.0.0.0/0", "0", "0", "0", "off"],
    ]  # fmt: skip
    told = server.wg("show").stdout
    assert "latest handshake: " in told
    assert f"interface: {server.name}" in told


def test_show_of_an_unconfigured_device(server: Server) -> None:
    assert server.wg("show", "dump").stdout == "(none)\t(none)\t0\toff\n"


@pytest.mark.parametrize(
    ("code", "words"), [(errno.EINVAL, "Invalid argument"), (errno.EADDRINUSE, "Address already in use")]
)
def test_an_errno_reply_is_what_wg_reports(server: Server, code: int, words: str) -> None:
    server.refuse = code
    result = server.wg("set", "listen-port", "1", check=False)
    assert result.returncode == 1
    assert words in result.stderr


def test_a_thousand_peers_go_through_in_one_piece(server: Server, file: Path) -> None:
    peers = [f"[Peer]\nPublicKey = {key_to_base64(n.to_bytes(32))}\nAllowedIPs = 10.{n >> 8}.{n & 255}.0/24\n"
             for n in range(1, 1001)]  # fmt: skip
    file.write_text("[Interface]\n" + "".join(peers))
    server.wg("setconf", str(file))
    assert server.config == parse_conf(file.read_text()).device
    assert len(server.wg("show", "peers").stdout.split()) == 1000
    assert key_from_base64(server.wg("show", "peers").stdout.split()[-1]) == (1000).to_bytes(32)
