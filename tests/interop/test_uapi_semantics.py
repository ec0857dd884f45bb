"""The same set requests to Debian's wireguard-go and to our pure functions: the same configuration afterwards."""

import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import TypeVar

import pytest

from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.keys import ZERO_KEY, clamp, public_key
from engine.wg.uapi import (
    AllowedIP,
    PeerUpdate,
    UapiError,
    Update,
    apply_update,
    parse_request,
    render_get,
    render_set,
    reply,
)

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(shutil.which("wireguard-go") is None, reason="needs wireguard-go to compare with"),
]

PRIVATE = [clamp(bytes([n]) * 32) for n in (1, 2, 3)]
PEERS = [public_key(private) for private in (*PRIVATE[:2], *(clamp(bytes([n]) * 32) for n in (7, 8, 9)))]
NETWORKS = [ip_network(text) for text in ("0.0.0.0/0", "10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "::/0", "fd00::/8")]
FACTS = ("last_handshake_time", "rx_bytes", "tx_bytes", "errno")

T = TypeVar("T")


class WireguardGo:
    """A wireguard-go in a network namespace of its own; its socket is in the ordinary place."""

    def __init__(self) -> None:
        name = f"mhgo{os.getpid()}"
        self.path = Path(f"/var/run/wireguard/{name}.sock")
        self.process = subprocess.Popen(
            ["unshare", "-n", "wireguard-go", "-f", name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={
                "PATH": os.environ["PATH"],
                "LOG_LEVEL": "silent",
                "WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD": "1",
            },
        )
        deadline = time.monotonic() + 10
        while not self.path.exists():
            assert self.process.poll() is None, "wireguard-go did not start"
            assert time.monotonic() < deadline, "wireguard-go made no socket"
            time.sleep(0.02)

    def ask(self, request: str) -> list[str]:
        """The lines of the reply, without the empty one."""
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(str(self.path))
            client.sendall(request.encode())
            reply = b""
            while not reply.endswith(b"\n\n"):
                reply += client.recv(65536)
        return reply.decode().split()

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        self.path.unlink(missing_ok=True)


@pytest.fixture
def wireguard_go() -> Iterator[WireguardGo]:
    process = WireguardGo()
    yield process
    process.close()


def settings(lines: list[str]) -> tuple[DeviceConfig, dict[bytes, PeerConfig]]:
    """The configuration in the lines of a get reply; peers by key, for wireguard-go lists them in any order."""
    kept = [line for line in lines if not line.startswith(FACTS)]
    request = parse_request(("set=1\n" + "\n".join(kept) + "\n").encode())
    assert isinstance(request, Update)
    config = apply_update(DeviceConfig(), request)
    peers = {
        peer.public_key: PeerConfig(
            peer.public_key,
            peer.preshared_key,
            peer.endpoint,
            peer.persistent_keepalive,
            tuple(sorted(peer.allowed_ips, key=str)),
        )
        for peer in config.peers
    }
    return DeviceConfig(config.private_key, config.listen_port, config.fwmark), peers


def random_update(chance: random.Random) -> Update:
    def maybe(share: float, value: T) -> T | None:
        return value if chance.random() < share else None

    peers = []
    for _ in range(chance.randint(0, 3)):
        peers.append(
            PeerUpdate(
                chance.choice(PEERS),
                remove=chance.random() < 0.2,
                update_only=chance.random() < 0.2,
                preshared_key=maybe(0.3, chance.choice([ZERO_KEY, bytes([chance.randrange(1, 255)]) * 32])),
                endpoint=maybe(0.4, HostPort(chance.choice(["192.0.2.1", "2001:db8::1"]), chance.randint(1, 65535))),
                persistent_keepalive=maybe(0.3, chance.choice([0, 25, 65535])),
                replace_allowed_ips=chance.random() < 0.3,
                allowed_ips=tuple(AllowedIP(net) for net in chance.sample(NETWORKS, chance.randint(0, 3))),
            )
        )
    return Update(
        private_key=maybe(0.2, chance.choice([ZERO_KEY, *PRIVATE])),
        listen_port=maybe(0.1, chance.randint(20000, 60000)),
        fwmark=maybe(0.1, chance.randint(0, 2**32 - 1)),
        replace_peers=chance.random() < 0.1,
        peers=tuple(peers),
    )


@pytest.mark.parametrize("seed", range(3))
def test_any_sequence_of_set_requests_ends_in_wireguard_gos_configuration(wireguard_go: WireguardGo, seed: int) -> None:
    chance = random.Random(seed)
    config = apply_update(DeviceConfig(), Update(listen_port=51820))
    assert wireguard_go.ask("set=1\nlisten_port=51820\n\n") == ["errno=0"]
    for _ in range(60):
        update = random_update(chance)
        assert wireguard_go.ask(render_set(update)) == ["errno=0"], update
        config = apply_update(config, update)
        assert settings(render_get(config, {}).split()) == settings(wireguard_go.ask("get=1\n\n")), update


@pytest.mark.parametrize(
    "lines",
    [
        "hello", "foo=1", "allowed_ip=::/0", "private_key=00", "listen_port=65536", "fwmark=0x1", "replace_peers=false",
        "public_key=xx", *(f"public_key={PEERS[0].hex()}\n{line}" for line in (
            "fwmark=1", "remove=1", "update_only=no", "replace_allowed_ips=no", "preshared_key=0", "endpoint=host:5",
            "endpoint=1.2.3.4", "persistent_keepalive_interval=65536", "allowed_ip=10.0.0.0", "allowed_ip=10.0.0.0/33",
            "protocol_version=2")),
    ],
)  # fmt: skip
def test_a_malformed_line_gets_the_errno_that_wireguard_go_gives(wireguard_go: WireguardGo, lines: str) -> None:
    with pytest.raises(UapiError) as caught:
        parse_request(f"set=1\n{lines}\n".encode())
    assert wireguard_go.ask(f"set=1\n{lines}\n\n")[-1] == reply(caught.value.errno).strip()
