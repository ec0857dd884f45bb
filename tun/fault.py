"""Bad networks on demand: loss, reordering, duplication and corruption, the same ones for the same seed.

`FaultPlan` is the pure part: an endless, deterministic list of what happens to the first, second, third... packet.
`FaultLine` does it to packets of one direction. `FaultTun` puts a line each way before a device, `FaultRelay` between
two UDP sockets, where it can also cut the line and change the address that the far side sees.
"""

import os
import random
import select
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tun.device import VNET_HDR_LEN, Device
from tun.pump import PumpedTun

_DATAGRAM = 65536
_HOLD_SECONDS = 0.02  # a held packet goes on when no other one has come this way for so long


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one packet. `overtaken_by`: how many later packets go before it; `flip`: 0 <= place < 1."""

    lost: bool = False
    duplicated: bool = False
    overtaken_by: int = 0
    flip: float | None = None


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """Probabilities (0..1) of each fault, independent of one another, and the seed that fixes them all."""

    seed: int
    loss: float = 0.0
    reorder: float = 0.0
    duplicate: float = 0.0
    corrupt: float = 0.0

    def faults(self, line: str = "") -> Iterator[Fault]:
        """The faults of the packets of one line, endlessly; lines with other names have other faults."""
        chance = random.Random(f"{self.seed}/{line}")
        while True:
            # Every packet draws the same number of values: changing one probability leaves the others' faults alone.
            lost, reordered, duplicated, corrupted, place = (chance.random() for _ in range(5))
            overtaken_by = chance.randint(1, 3)
            yield Fault(
                lost=lost < self.loss,
                duplicated=duplicated < self.duplicate,
                overtaken_by=overtaken_by if reordered < self.reorder else 0,
                flip=place if corrupted < self.corrupt else None,
            )


class FaultLine:
    """One direction under a plan: packets in, packets out. Bytes before `header_len` are never corrupted."""

    def __init__(self, plan: FaultPlan, line: str, header_len: int = 0) -> None:
        self._faults = plan.faults(line)
        self._header_len = header_len
        self._held: list[tuple[int, list[bytes]]] = []  # how many packets must still go before, and the copies

    def carry(self, packet: bytes) -> list[bytes]:
        """What goes on now that `packet` came: it, its copies, and packets that were held back for it."""
        fault = next(self._faults)
        copies = [] if fault.lost else [self._flipped(packet, fault.flip)] * (2 if fault.duplicated else 1)
        going = [] if fault.overtaken_by else copies
        still_held = []
        for count, held in self._held:
            if count > 1:
                still_held.append((count - 1, held))
            else:
                going = going + held
        if fault.overtaken_by and copies:
            still_held.append((fault.overtaken_by, copies))
        self._held = still_held
        return going

    @property
    def holding(self) -> bool:
        """Whether a packet is held back."""
        return bool(self._held)

    def flush(self) -> list[bytes]:
        """What was held back and is let go because nothing comes to overtake it."""
        going = [packet for _, copies in self._held for packet in copies]
        self._held = []
        return going

    def _flipped(self, packet: bytes, place: float | None) -> bytes:
        body = len(packet) - self._header_len
        if place is None or body <= 0:
            return packet
        bit = int(place * body * 8)
        flipped = bytearray(packet)
        flipped[self._header_len + bit // 8] ^= 1 << bit % 8
        return bytes(flipped)


class FaultTun(PumpedTun):
    """`device` behind a bad network, each direction with its own faults of the same plan."""

    def __init__(self, device: Device, plan: FaultPlan) -> None:
        header_len = VNET_HDR_LEN if device.vnet_hdr else 0
        self._lines = {True: FaultLine(plan, "outward", header_len), False: FaultLine(plan, "inward", header_len)}
        super().__init__(device)

    def carry(self, packet: bytes, outward: bool) -> Sequence[bytes]:
        """Do to the packet what the plan says."""
        return self._lines[outward].carry(packet)

    def flush(self, outward: bool) -> Sequence[bytes]:
        """Let go of held packets."""
        return self._lines[outward].flush()


class FaultRelay:
    """A UDP relay for one client: it listens on `listen` and talks to `server` from a port of its own.

    The client sends to `address`. While `cut` is true nothing passes. `rebind()` changes the address that the server
    sees, as a NAT that has forgotten does; what the server sends goes to where the client last spoke from.
    """

    def __init__(self, listen: tuple[str, int], server: tuple[str, int], plan: FaultPlan) -> None:
        self.cut = False
        self.carried = 0  # datagrams that went on, both ways
        self._server = server
        self._client: tuple[str, int] | None = None
        self._front = socket.socket(_family(listen), socket.SOCK_DGRAM)
        self._front.bind(listen)
        self._front.setblocking(False)
        self._back = self._new_back()
        self._to_server, self._to_client = FaultLine(plan, "to server"), FaultLine(plan, "to client")
        self._closing = False
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._thread = threading.Thread(target=self._run, name="fault-relay", daemon=True)
        self._thread.start()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port where the relay listens."""
        host, port = self._front.getsockname()[:2]
        return str(host), int(port)

    @property
    def outer_address(self) -> tuple[str, int]:
        """Host and port that the server sees now."""
        host, port = self._back.getsockname()[:2]
        return str(host), int(port)

    def rebind(self) -> None:
        """Go on from another port; what the server still sends to the former one is lost."""
        former, self._back = self._back, self._new_back()
        former.close()
        os.eventfd_write(self._wake, 1)  # the thread must wait for the new socket

    def close(self) -> None:
        """Stop and close the sockets; a second call does nothing."""
        if self._closing:
            return
        self._closing = True
        os.eventfd_write(self._wake, 1)
        self._thread.join()
        os.close(self._wake)
        self._front.close()
        self._back.close()

    def _new_back(self) -> socket.socket:
        back = socket.socket(_family(self._server), socket.SOCK_DGRAM)
        back.setblocking(False)
        back.connect(self._server)
        return back

    def _run(self) -> None:
        server_flush = client_flush = 0.0
        while not self._closing:
            back = self._back
            poll = select.poll()
            for fd in (self._front.fileno(), back.fileno(), self._wake):
                if fd >= 0:  # closed by `rebind` just now: the next turn has the new one
                    poll.register(fd, select.POLLIN)
            holding = self._to_server.holding or self._to_client.holding
            poll.poll(_HOLD_SECONDS * 1000 if holding else None)
            now = time.monotonic()
            try:
                os.eventfd_read(self._wake)
            except BlockingIOError:
                pass
            try:
                data, self._client = self._front.recvfrom(_DATAGRAM)
                to_server, server_flush = self._to_server.carry(data), now + _HOLD_SECONDS
            except OSError:  # nothing there
                to_server = self._to_server.flush() if now >= server_flush else []
            try:
                to_client, client_flush = self._to_client.carry(back.recv(_DATAGRAM)), now + _HOLD_SECONDS
            except OSError:  # nothing there, closed by `rebind`, or an ICMP error: as good as lost
                to_client = self._to_client.flush() if now >= client_flush else []
            self._send(to_server, to_client)

    def _send(self, to_server: Sequence[bytes], to_client: Sequence[bytes]) -> None:
        if self.cut:
            return
        for datagram in to_server:
            self.carried += 1
            try:
                self._back.send(datagram)
            except OSError:
                pass  # a network that loses is what this is
        client = self._client
        if client is None:
            return
        for datagram in to_client:
            self.carried += 1
            try:
                self._front.sendto(datagram, client)
            except OSError:
                pass


def _family(address: tuple[str, int]) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address[0] else socket.AF_INET
