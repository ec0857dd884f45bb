"""The imported tunnels: WireGuard .conf files, one a tunnel, in a folder that only root can enter.

What is kept is what was understood: hooks are never run, so they are not stored. Private keys are in these files and
nowhere else; nothing here tells one.
"""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Final

from engine.daemon import store
from engine.daemon.store import Unreadable
from engine.management.schema import Imported, TunnelInfo
from engine.policy import Tunnel
from engine.service.quick import check_peers, interface_of, not_followed
from engine.wg.conf import Conf, ConfError, parse_conf, render_conf
from engine.wg.config import HostPort
from engine.wg.keys import key_to_base64

log = logging.getLogger(__name__)

MAX_TUNNELS = 500
MAX_ADDRESSES = 16
MAX_PEERS = 64
MAX_ALLOWED = 4096
_SOME_HOST = "192.0.2.1"
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", re.ASCII)


class Tunnels:
    """The folder of the tunnels. OSError from what writes: then nothing has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "tunnels"

    def names(self) -> list[str]:
        """The imported tunnels' names, sorted."""
        if not self._folder.is_dir():
            return []
        files = self._folder.glob("*.conf")
        return sorted(file.stem for file in files if NAME.fullmatch(file.stem))

    def list(self) -> tuple[TunnelInfo, ...]:
        """All tunnels that can be read; of the others the log tells."""
        found = []
        for name in self.names():
            try:
                found.append(_info(name, self.load(name)))
            except (KeyError, Unreadable) as error:
                log.error("tunnel %s: %s", name, error)
        return tuple(found)

    def load(self, name: str) -> Conf:
        """A tunnel's configuration. KeyError: there is none of that name; Unreadable."""
        content = store.read(self._path(name)) if NAME.fullmatch(name) else None
        if content is None:
            raise KeyError(name)
        try:
            return parse_conf(content)
        except ConfError as error:
            raise Unreadable(f"the file of the tunnel {name} cannot be understood: {error}") from None

    def host_names(self, name: str) -> frozenset[str]:
        """The host names among a tunnel's endpoints. KeyError, Unreadable."""
        endpoints = [peer.endpoint for peer in self.load(name).device.peers if peer.endpoint is not None]
        return frozenset(endpoint.host for endpoint in endpoints if endpoint.address is None)

    def add(self, name: str, text: str, replace_it: bool = False) -> Imported:
        """Import a .conf file's text. ValueError: one sentence that names the line and key, or the name."""
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name: use 1 to 64 letters, digits or any of _ . -")
        if not replace_it and self._path(name).exists():
            raise ValueError(f"there is a tunnel {name} already: remove it first, or replace it")
        if len(self.names()) >= MAX_TUNNELS and not self._path(name).exists():
            raise ValueError(f"there are {MAX_TUNNELS} tunnels already: remove one first")
        conf = parse_conf(text)
        notices = _checked(conf)
        conf = replace(conf, pre_up=(), post_up=(), pre_down=(), post_down=(), save_config=False)
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        store.write(self._path(name), render_conf(conf).encode())
        return Imported(_info(name, conf), tuple(notices))

    def remove(self, name: str) -> None:
        """Remove a tunnel. KeyError: there is none of that name."""
        if name not in self.names():
            raise KeyError(name)
        store.remove(self._path(name))

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.conf"


def _checked(conf: Conf) -> list[str]:
    """What of the file is not followed. ValueError where it could never be a tunnel."""
    interface_of(conf)
    for what, found, most in (
        ("Address", conf.addresses, MAX_ADDRESSES),
        ("DNS", conf.dns, MAX_ADDRESSES),
        ("[Peer]", conf.device.peers, MAX_PEERS),
        ("AllowedIPs", [each for peer in conf.device.peers for each in peer.allowed_ips], MAX_ALLOWED),
    ):
        if len(found) > most:
            raise ValueError(f"{what}: at most {most}, not {len(found)}")
    notices = not_followed(conf, one_peer="firewall")
    if any(peer.endpoint is not None for peer in conf.device.peers):
        check_peers(conf)
        _check_whole(conf)
    else:
        Tunnel("any", tuple(address.ip for address in conf.addresses), conf.dns)  # raises what a policy cannot name
        notices.append("no [Peer] has an Endpoint: it can only lend its key and addresses to a relay")
    return notices


def _check_whole(conf: Conf) -> None:
    """ValueError for what no session can be made of; a host name may become any address."""
    named: dict[bytes, HostPort | None] = {
        peer.public_key: HostPort(_SOME_HOST, peer.endpoint.port)
        for peer in conf.device.peers
        if peer.endpoint is not None and peer.endpoint.address is None
    }
    builder = interface_of(conf).set_wireguard(conf.device.with_endpoints(named))
    for server in conf.dns:
        builder.add_gateway(server)
    builder.configuration()


def _info(name: str, conf: Conf) -> TunnelInfo:
    server = next((peer for peer in conf.device.peers if peer.endpoint is not None), None)
    public = conf.device.public_key
    return TunnelInfo(
        name=name,
        public_key=key_to_base64(public) if public is not None else "",
        addresses=tuple(map(str, conf.addresses)),
        endpoint=str(server.endpoint) if server is not None else None,
        dns=tuple(map(str, conf.dns)),
    )
