"""A relay of the lab: `molehill-wg` in a namespace, configured by its control socket, routing for one client.

Order of events: start -> the control socket answers -> key, port and peer -> addresses -> `stop()`. In its place a
`Liar` can take the port, who answers whatever comes with noise.
"""

from __future__ import annotations

import base64
import secrets
import socket
import threading
from dataclasses import dataclass
from pathlib import Path

from nacl import bindings

from engine.leaklab.namespaces import Lab, Process, wait_until

PORT = 51820


@dataclass(frozen=True)
class Keys:
    """A key pair of X25519, 32 bytes each."""

    private: bytes
    public: bytes

    @classmethod
    def new(cls) -> Keys:
        """A fresh pair."""
        private = secrets.token_bytes(32)
        return cls(private, bindings.crypto_scalarmult_base(private))


def text(key: bytes) -> str:
    """A key as it stands in a .conf file."""
    return base64.b64encode(key).decode()


class Relay:
    """A running relay: `addresses` (with prefix lengths) are its own in the tunnel, `allowed` the client's."""

    def __init__(
        self, lab: Lab, role: str, keys: Keys, client: bytes, addresses: tuple[str, ...], allowed: tuple[str, ...]
    ) -> None:
        self.lab, self.ns, self.keys = lab, lab[role], keys
        self.iface = f"mh{lab.tag}{role[-1]}"
        self._client, self._addresses, self._allowed = client, addresses, allowed
        self.process: Process | None = None

    def start(self) -> None:
        """Start it, and wait until it is reachable."""
        control = Path(f"/var/run/wireguard/{self.iface}.sock")
        control.unlink(missing_ok=True)  # one that was killed has left its own behind, which refuses
        self.process = process = self.lab.start(self.ns, "molehill-wg", "-f", self.iface)

        def ready() -> bool:
            if not process.running:
                raise RuntimeError(f"`molehill-wg` ended at once: {process.output().strip()}")
            return control.exists() and self.ns.has_interface(self.iface)

        wait_until(ready, 15, f"a relay serving {control}")
        lines = [
            "set=1", f"private_key={self.keys.private.hex()}", f"listen_port={PORT}", "replace_peers=true",
            f"public_key={self._client.hex()}", "replace_allowed_ips=true",
            *(f"allowed_ip={network}" for network in self._allowed),
        ]  # fmt: skip
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(5)
            sock.connect(str(control))
            sock.sendall("\n".join([*lines, "", ""]).encode())
            if (answer := sock.recv(256)) != b"errno=0\n\n":
                raise RuntimeError(f"the relay refused its configuration: {answer!r}")
        for address in self._addresses:
            self.ns.ip(f"addr add {address} dev {self.iface}{' nodad' if ':' in address else ''}")
        self.ns.ip(f"link set {self.iface} mtu 1420 up")

    def stop(self) -> None:
        """End it; its tunnel's interface goes with it."""
        if self.process is not None:
            self.process.stop()
            wait_until(lambda: not self.ns.has_interface(self.iface), 10, "the relay's interface to go")


class Liar:
    """Takes a relay's port and answers every datagram: with noise of each message type's form, and with its own words.

    A context manager.
    """

    def __init__(self, relay: Relay) -> None:
        with relay.ns.entered():
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("0.0.0.0", PORT))
        self._socket.settimeout(0.1)
        self.answered = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="liar", daemon=True)

    def _run(self) -> None:
        shapes = ((1, 148), (2, 92), (3, 64), (4, 32), (4, 1420), (0, 16), (9, 1400))
        while not self._stop.is_set():
            try:
                said, whom = self._socket.recvfrom(65535)
                for kind, size in shapes:
                    self._socket.sendto(bytes([kind, 0, 0, 0]) + secrets.token_bytes(size - 4), whom)
                # An initiation's sender index is at 4: a response that names it gets further than noise does.
                self._socket.sendto(b"\2\0\0\0" + secrets.token_bytes(4) + said[4:8] + secrets.token_bytes(80), whom)
                self._socket.sendto(b"\4\0\0\0" + said[4:8] + bytes(8) + secrets.token_bytes(64), whom)
                self._socket.sendto(said, whom)
                self.answered += 1
            except OSError:  # nothing came, or nobody is there any more
                pass

    def __enter__(self) -> Liar:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(2)
        self._socket.close()
