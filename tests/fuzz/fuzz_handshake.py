"""Fuzz Device.datagram_received: arbitrary bytes, and changed copies of valid messages (with their mac1 put right).

    python tests/fuzz/fuzz_handshake.py -runs=100000 -max_len=400

Whatever comes, the Device must not raise, must not answer a stranger, must not make a session or deliver a packet from
anything it did not agree on with its peer, and must keep its queues bounded.
# no coverage of native: the sessions are native code, which has fuzz targets of its own.
"""

import sys
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from random import Random

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["engine"]):
    from engine.wg import cookie, device, messages
    from engine.wg.events import PacketReceived, SessionReady

from native.endpoint import Endpoint

HERE = Endpoint(IPv4Address("192.0.2.1"), 51820)
THERE = Endpoint(IPv4Address("192.0.2.2"), 51820)
PACKET = b"\x45\0\0\x14" + bytes(8) + IPv4Address("10.0.0.1").packed + IPv4Address("10.0.0.2").packed


class World:
    """Two devices in the middle of a conversation, and one valid message of each type for the second one."""

    def __init__(self) -> None:
        random = Random(1)
        self.a = device.Device(random=random.randbytes)
        self.b = device.Device(random=random.randbytes)
        for me, key in ((self.a, b"a" * 32), (self.b, b"b" * 32)):
            me.set_private_key(key)
        for me, other, inside, at in ((self.a, self.b, "10.0.0.2", THERE), (self.b, self.a, "10.0.0.1", HERE)):
            assert other.public_key is not None
            me.add_peer(other.public_key, endpoint=at, allowed_ips=[ip_network(inside)])
        self.now = 100.0
        self.valid: list[bytes] = []
        # b has a session with a, and an initiation of its own in flight.
        self.a.packet_to_send(PACKET, self.now)
        self._exchange(self.a, self.b, HERE)
        self._exchange(self.b, self.a, THERE)
        self._exchange(self.a, self.b, HERE)
        self.now += 200
        peer = next(iter(self.b.peers.values()))
        self.b.handshake_wanted(peer, self.now)
        initiation = self.b.datagrams_to_send(self.now, self.now)[0].data
        self.a.datagram_received(initiation, THERE, self.now)
        self.valid += [datagram.data for datagram in self.a.datagrams_to_send(self.now, self.now)]
        self.a.datagram_received(initiation, THERE, self.now, under_load=True)
        self.valid += [datagram.data for datagram in self.a.datagrams_to_send(self.now, self.now)]
        while self.b.next_event() is not None:
            pass
        self.macs = cookie.CookieGenerator(self.b.public_key or b"")

    def _exchange(self, sender: device.Device, receiver: device.Device, source: Endpoint) -> None:
        for datagram in sender.datagrams_to_send(self.now, self.now):
            self.valid.append(datagram.data)
            receiver.datagram_received(datagram.data, source, self.now)


def authentic(message: bytes) -> bytes:
    """The bytes that only the peer can have made: not sender index and MACs, for which our public key will do."""
    return message[8:-32] if message[:1] in (b"\x01", b"\x02") else message


WORLD = World()
runs = 0


def one(data: bytes) -> None:
    """One datagram: the first byte chooses what is made of the rest."""
    global WORLD, runs
    runs += 1
    if runs % 5000 == 0:
        WORLD = World()  # so that a finding depends on few inputs
    world = WORLD
    choice, data = (data[0], data[1:]) if data else (0, b"")
    message = data
    if choice & 1:
        # data is (place, value) pairs: a valid message with these bytes changed.
        spoiled = bytearray(world.valid[(choice >> 1) % len(world.valid)])
        for place, value in zip(data[::2], data[1::2], strict=False):
            spoiled[place % len(spoiled)] ^= value
        message = bytes(spoiled)
    if choice & 128 and len(message) > 32:
        message = world.macs.add_macs(message[:-32], world.now)
    unchanged = any(authentic(message) == authentic(valid) for valid in world.valid)
    b = world.b
    b.datagram_received(message, HERE, world.now, under_load=choice & 64 != 0)
    answers = b.datagrams_to_send(world.now, world.now)
    assert len(answers) <= 1
    kind = messages.classify(message)
    if answers:
        assert kind in (messages.MessageType.INITIATION, messages.MessageType.RESPONSE)
        assert len(answers[0].data) <= len(message)
        assert answers[0].peer is None or unchanged
    while (event := b.next_event()) is not None:
        if isinstance(event, SessionReady | PacketReceived):
            assert unchanged
    assert len(b._sessions) <= 3
    assert len(b._initiators) <= 1
    world.now += 0.0001


if __name__ == "__main__":
    atheris.Setup(sys.argv, one)
    atheris.Fuzz()
