"""A Linux TUN interface: created by pytun, and given by ioctl what pytun lacks.

Order of events: create (or take over a persistent interface of that name) -> fix the length of the virtio
header -> offer offloads, the best set first and smaller ones if the kernel declines -> non-blocking,
close-on-exec -> MTU. The interface starts down and without addresses: `up()` here, addresses and routes by
the host integration.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
from typing import Final

import pytun

from tun.device import (
    TUN_F_CSUM,
    TUN_F_TSO4,
    TUN_F_TSO6,
    TUN_F_USO4,
    TUN_F_USO6,
    TUNSETOFFLOAD,
    TUNSETPERSIST,
    TUNSETVNETHDRSZ,
    VNET_HDR_LEN,
    TunError,
)
from tun.queues import Queues, attached_queues

NAME: Final = re.compile(r"[A-Za-z0-9_=+.-]{1,15}", re.ASCII)  # what wg-quick accepts

_TSO: Final = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6
_OFFERS: Final = (_TSO | TUN_F_USO4 | TUN_F_USO6, _TSO, TUN_F_CSUM, 0)  # USO since Linux 6.2


def set_vnet_hdr_len(fd: int) -> None:
    """Make the virtio header VNET_HDR_LEN bytes long (a former owner may have chosen another length)."""
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, struct.pack("i", VNET_HDR_LEN))


def negotiate_offloads(fd: int) -> int:
    """Offer offloads to the kernel, the best set first; return the TUN_F_* bits that it accepted."""
    for offer in _OFFERS:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, offer)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return offer
    return 0


def let_go(fd: int) -> None:
    """Make the interface one that goes with its last queue."""
    with contextlib.suppress(OSError):  # it has gone
        fcntl.ioctl(fd, TUNSETPERSIST, 0)


class LinuxTun:
    """A TUN interface of this network namespace; it vanishes with `close()` unless it is persistent.

    `queues`: how many (1 to 16); one that is taken over and was made for a single queue has no more.
    `offload=False` means no virtio header at all: plain packets of at most MTU bytes.
    `persist=True` leaves the interface (and the routes into it, so that traffic stays caught) when the
    process dies; the next LinuxTun of that name takes it over, with `persist=False` so that it goes away in
    the end. TunError says in one sentence why the interface cannot be had.
    """

    def __init__(
        self,
        name: str,
        *,
        mtu: int = 1420,
        queues: int = 1,
        offload: bool = True,
        persist: bool = False,
    ) -> None:
        if not NAME.fullmatch(name) or name in (".", ".."):
            raise TunError(f"{name!r} is no interface name: use 1 to 15 letters, digits or any of _ = + . -")
        flags = pytun.IFF_TUN | pytun.IFF_NO_PI
        flags |= pytun.IFF_VNET_HDR if offload else 0
        self._more: list[pytun.TunTapDevice] = []
        self._tun, several = _first_queue(name, flags, several=queues > 1)
        try:
            while several and len(self._more) < queues - 1:
                self._more.append(_open(self._tun.name, flags | pytun.IFF_MULTI_QUEUE))
            if several:
                self._check_alone()  # before anything is changed: it may be somebody else's
            for queue in self._more:
                self._prepared(queue)
            fd = self._prepared(self._tun)
            if offload:
                set_vnet_hdr_len(fd)
            self.offloads = negotiate_offloads(fd) if offload else 0
            self.set_mtu(mtu)
            self._mtu = mtu
            self._tun.persist(persist)  # last: one that cannot be had is not left behind
        except BaseException:
            self.close()
            raise
        self.name: str = self._tun.name
        self.vnet_hdr = offload

    def _check_alone(self) -> None:
        """Two that began at the same moment have both seen nobody: then neither gets the interface. TunError."""
        name = self._tun.name
        there = _look(name)
        if there is None or there.attached != 1 + len(self._more):
            raise TunError(_why(name, OSError(errno.EBUSY, "")))

    @staticmethod
    def _prepared(queue: pytun.TunTapDevice) -> int:
        fd = int(queue.fileno())
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        return fd

    @property
    def mtu(self) -> int:
        """The interface's MTU as it is now, or as last seen once the interface has left this network namespace."""
        try:
            self._mtu = int(self._tun.mtu)
        except OSError:
            pass  # deleted, or moved into a container's namespace while we carry its packets from here
        return self._mtu

    def set_mtu(self, mtu: int) -> None:
        """Set the interface's MTU (68..65535; IPv6 needs 1280)."""
        try:
            self._tun.mtu = mtu
        except (OSError, OverflowError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise TunError(f"the MTU of {self._tun.name} cannot be set: {os.strerror(error.errno)}") from error
            raise TunError(f"{mtu} is no MTU for a TUN device: use 1280 to 65535") from error

    def up(self) -> None:
        """Set the interface up: from now on the kernel routes packets into it."""
        self._tun.up()

    def fileno(self) -> int:
        """The first queue's descriptor; -1 when closed."""
        return int(self._tun.fileno())

    def queues(self) -> tuple[int, ...]:
        """The descriptors of all queues."""
        return (self.fileno(), *(int(queue.fileno()) for queue in self._more))

    def close(self) -> None:
        """Close the queues; the interface goes too unless it is persistent."""
        for queue in (*self._more, self._tun):
            queue.close()

    def discard(self) -> None:
        """Close the queues and let the interface go, by whatever name and in whatever namespace it is now."""
        let_go(self.fileno())
        self.close()


def _open(name: str, flags: int) -> pytun.TunTapDevice:
    try:
        return pytun.TunTapDevice(name, flags)
    except OSError as error:
        raise TunError(_why(name, error)) from error


def _look(name: str) -> Queues | None:
    try:
        return attached_queues(name)
    except OSError as error:
        raise TunError(f"the interface {name} cannot be looked at: {error.strerror}") from error


def _first_queue(name: str, flags: int, *, several: bool) -> tuple[pytun.TunTapDevice, bool]:
    """The first queue, and whether there can be more.

    An interface that stayed from before may be of the other kind, and is taken over as what it is. One for several
    queues would take ours beside those of a living owner: that there is none is for us to see.
    """
    there = _look(name)
    if there is not None:
        if there.several and there.attached:
            raise TunError(_why(name, OSError(errno.EBUSY, "")))
        several = there.several
    return _open(name, flags | (pytun.IFF_MULTI_QUEUE if several else 0)), several


def _why(name: str, error: OSError) -> str:
    match error.errno:
        case errno.ENOENT | errno.ENODEV | errno.ENXIO:
            return "there is no /dev/net/tun: load the tun module (modprobe tun) or give it to the container"
        case errno.EACCES:
            return "/dev/net/tun may not be opened by this user: run as root"
        case errno.EPERM:
            return f"the interface {name} may not be created or taken over: run as root or with CAP_NET_ADMIN"
        case errno.EBUSY:
            return f"the interface {name} is in use by another process: choose another name or stop it"
        case errno.EINVAL:
            return f"the name {name} is taken by an interface of another kind: choose another name"
        case _:
            return f"the interface {name} cannot be created: {error.strerror or error}"
