"""A device behind a descriptor that someone else opened: the mobile model, a service manager, another process.

Android and iOS hand the engine a descriptor and nothing more; a supervisor may keep a TUN queue and pass it over
SCM_RIGHTS. What it is, is asked from the kernel, not believed: a TUN queue tells its name and flags by TUNGETIFF, a
socket its type. Anything that would not carry whole IP packets, one a call, is refused. One thing the kernel does not
tell (its bit is reused by IFF_NOFILTER): whether the queue was opened with IFF_NO_PI, as it must be; if not, every
packet begins with the wrong byte and is dropped as malformed.
"""

import errno
import fcntl
import os
import socket
import stat
import struct

from tun.device import TUNGETIFF, TunError
from tun.linux import let_go, negotiate_offloads, set_vnet_hdr_len

# Flags of TUNGETIFF, linux/if_tun.h.
_IFF_TUN = 0x0001
_IFF_VNET_HDR = 0x4000
_SIOCGIFMTU = 0x8921
_SIOCSIFMTU = 0x8922


class FdTun:
    """Wraps a TUN queue or a packet-preserving socket; takes the descriptor over and closes it in the end.

    `mtu` is believed for sockets and where the interface's own MTU cannot be asked (it lives in another network
    namespace). `vnet_hdr` is believed for sockets; a TUN queue knows. TunError: what the descriptor is instead; it
    is still the caller's then.
    """

    def __init__(self, fd: int, *, mtu: int = 1420, vnet_hdr: bool = False) -> None:
        try:
            mode = os.fstat(fd).st_mode
        except OSError as error:
            raise TunError(f"the descriptor {fd} is not open") from error
        self.offloads = 0
        if stat.S_ISSOCK(mode):
            self._check_socket(fd)
            self.name, self.vnet_hdr = f"fd{fd}", vnet_hdr
        else:
            self.name, self.vnet_hdr = self._tun_queue(fd)
            if self.vnet_hdr:
                set_vnet_hdr_len(fd)
                self.offloads = negotiate_offloads(fd)
        os.set_inheritable(fd, False)
        os.set_blocking(fd, False)
        self._fd = fd
        self._mtu = mtu
        self._interface = "" if stat.S_ISSOCK(mode) else self.name

    @staticmethod
    def _check_socket(fd: int) -> None:
        with socket.socket(fileno=os.dup(fd)) as handle:
            if handle.type not in (socket.SOCK_SEQPACKET, socket.SOCK_DGRAM):
                raise TunError(f"the descriptor {fd} is a stream socket: packets need SEQPACKET or DGRAM")

    @staticmethod
    def _tun_queue(fd: int) -> tuple[str, bool]:
        try:
            request = fcntl.ioctl(fd, TUNGETIFF, bytes(40))  # struct ifreq
        except OSError as error:
            if error.errno == errno.EBADFD:
                raise TunError(f"the descriptor {fd} is /dev/net/tun without an interface attached") from error
            raise TunError(f"the descriptor {fd} is neither a TUN device nor a packet socket") from error
        name, flags = struct.unpack_from("16sH", request)
        interface = name.rstrip(b"\0").decode("ascii", "replace")
        if not flags & _IFF_TUN:
            raise TunError(f"the interface {interface} is a TAP device: the engine carries IP packets, not frames")
        return interface, bool(flags & _IFF_VNET_HDR)

    @property
    def mtu(self) -> int:
        """The interface's MTU as it is now where that can be asked, else what was given."""
        if not self._interface:
            return self._mtu
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
                request = struct.pack("40s", self._interface.encode())
                return int(struct.unpack_from("16si", fcntl.ioctl(handle, _SIOCGIFMTU, request))[1])
        except OSError:
            return self._mtu

    def set_mtu(self, mtu: int) -> None:
        """Set the MTU, of the interface too if there is one here (68..65535; IPv6 needs 1280). TunError."""
        if self._interface:
            request = struct.pack("16si20x", self._interface.encode(), mtu)
            try:
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as handle:
                    fcntl.ioctl(handle, _SIOCSIFMTU, request)
            except OSError as error:
                raise TunError(f"{mtu} is no MTU for the interface {self._interface}: {error.strerror}") from error
        self._mtu = mtu

    def fileno(self) -> int:
        """The descriptor; -1 when closed."""
        return self._fd

    def queues(self) -> tuple[int, ...]:
        """The one descriptor."""
        return (self.fileno(),)

    def close(self) -> None:
        """Close the descriptor; a persistent or elsewhere held interface stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Close the descriptor and let the interface go, by whatever name and in whatever namespace it is now."""
        if self._interface:
            let_go(self._fd)
        self.close()
