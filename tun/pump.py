"""A device that stands before another one and sees every packet: the base of the wrappers.

A thread carries packets between the wrapped device's descriptor and one end of a socket pair; the engine gets the
other end. A wrapper says what becomes of a packet in `carry`: nothing, itself, another, several. Meant for looking
and testing, not for speed: each packet costs four system calls and a turn of Python.

A direction whose target is full waits, so a wrapper adds no loss of its own; a target that refuses a packet (an
interface that is down) loses it, as without a wrapper. When either side goes away the pump closes its ends, and the
engine reads the end of the stream.
"""

import contextlib
import errno
import math
import os
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Sequence

from tun.device import VNET_HDR_LEN, Device

_BUFFER = VNET_HDR_LEN + 65536
_IDLE_SECONDS = 0.02  # how long `flush` waits for another packet of the same direction


class PumpedTun:
    """Wraps `device` and owns it: closing this closes that. Subclasses override `carry` and perhaps `flush`.

    `outward` is true for packets that come from the device (on their way into the tunnel).
    """

    def __init__(self, device: Device) -> None:
        self._device = device
        self.name, self.vnet_hdr, self.offloads = device.name, device.vnet_hdr, device.offloads
        self.header_len = VNET_HDR_LEN if device.vnet_hdr else 0
        self._engine, self._inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._engine.setblocking(False)
        self._inner.setblocking(False)
        self._stop = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name=f"pump-{device.name}", daemon=True)
        self._thread.start()

    def carry(self, packet: bytes, outward: bool) -> Sequence[bytes]:
        """What goes on instead of `packet` (with its virtio header, `header_len` bytes). Runs in the pump's thread."""
        raise NotImplementedError

    def flush(self, outward: bool) -> Sequence[bytes]:
        """What was held back and goes on now that this way no other packet comes. Runs in the pump's thread."""
        return ()

    @property
    def mtu(self) -> int:
        """The wrapped device's MTU."""
        return self._device.mtu

    def fileno(self) -> int:
        """The engine's end of the socket pair; -1 when closed."""
        return self._engine.fileno()

    def queues(self) -> tuple[int, ...]:
        """The one descriptor."""
        return (self.fileno(),)

    def close(self) -> None:
        """Stop the pump and close the wrapped device."""
        if self._engine.fileno() < 0:
            return
        os.eventfd_write(self._stop, 1)
        self._thread.join()
        os.close(self._stop)
        self._engine.close()
        self._device.close()

    def _run(self) -> None:
        """Until told to stop or a side goes away: move packets from whichever side has one to a side that has room."""
        device, inner = self._device.fileno(), self._inner.fileno()
        waiting: dict[int, deque[bytes]] = {device: deque(), inner: deque()}  # by the descriptor they go to
        other = {device: inner, inner: device}
        flush_at = {device: math.inf, inner: math.inf}  # by the descriptor packets come from
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        with contextlib.closing(self._inner):
            while True:
                for source, target in other.items():
                    wanted = 0 if waiting[target] else select.POLLIN
                    poll.register(source, wanted | (select.POLLOUT if waiting[source] else 0))
                soonest = min(flush_at.values())
                ready = poll.poll(None if soonest == math.inf else max(0.0, soonest - time.monotonic()) * 1000)
                for source, target in other.items():
                    if time.monotonic() >= flush_at[source]:
                        flush_at[source] = math.inf
                        waiting[target] += self.flush(source == device)
                for fd, events in ready:
                    if fd == self._stop:
                        return
                    try:
                        if events & select.POLLOUT:
                            _drain(fd, waiting[fd])
                        if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                            packet = os.read(fd, _BUFFER)
                            if not packet:
                                return
                            target = other[fd]
                            waiting[target] += self.carry(packet, fd == device)
                            flush_at[fd] = time.monotonic() + _IDLE_SECONDS
                            _drain(target, waiting[target])
                    except BlockingIOError:
                        continue
                    except OSError:
                        return  # the interface was deleted, or the engine's end closed


def _drain(fd: int, packets: deque[bytes]) -> None:
    """Write the packets in order until the target is full; drop those that it refuses."""
    while packets:
        try:
            os.write(fd, packets[0])
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.ENOBUFS):
                raise
        packets.popleft()
