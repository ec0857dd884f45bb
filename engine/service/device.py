"""The TUN of a session, and the tunnel behind it: opened anew, or taken over from whoever kept it.

A service manager may keep the TUN's descriptor (systemd: the file descriptor store), so that a crash of the daemon
never leaves the queue without an owner. The session says by `on_tun` which one to keep; the next run gives it to
`adopting`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from engine.policy import MARK
from engine.service.ports import OpenTun, TunPort
from engine.tunnel.events import TunnelEvent
from engine.tunnel.threads import threads
from engine.tunnel.tunnel import Tunnel
from tun import FdTun, LinuxTun, TunError

log = logging.getLogger(__name__)


def open_tun(name: str, mtu: int) -> LinuxTun:
    """A persistent TUN of this name: it goes on catching packets when the process dies. TunError."""
    return LinuxTun(name, mtu=mtu, queues=threads(), persist=True)


def adopting(fd: int) -> OpenTun:
    """An `open_tun` that takes the kept descriptor over, once, and opens a TUN where it cannot be used.

    It is closed if it is not a TUN of the wanted name with a virtio header.
    """
    kept: list[FdTun] = []
    try:
        kept.append(FdTun(fd))
    except TunError as error:
        log.warning("the kept descriptor cannot be used: %s", error)

    def adopt(name: str, mtu: int) -> TunPort:
        while kept:
            tun = kept.pop()
            if tun.name == name and tun.vnet_hdr:
                try:
                    tun.set_mtu(mtu)
                    return tun
                except TunError as error:  # its interface has been deleted
                    log.warning("the kept descriptor cannot be used: %s", error)
            tun.close()
        return open_tun(name, mtu)

    return adopt


def open_tunnel(tun: TunPort, on_event: Callable[[TunnelEvent], None]) -> Tunnel:
    """The tunnel behind a TUN of this module's."""
    assert isinstance(tun, LinuxTun | FdTun)
    return Tunnel(tun, fwmark=MARK, on_event=on_event)
