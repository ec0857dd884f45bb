"""Two Devices over a network that loses, delays, reorders, duplicates and spoils, driven by hypothesis.

Always: only what was sent is delivered, at most once, to whom it was sent; no counter carries two plaintexts; the
number of handshakes is bounded. And when the network behaves again, the two recover by themselves.
"""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from engine.wg.constants import REKEY_TIMEOUT
from tests.offload import OffloadNode
from tests.virtual import Network, Node, Seen, deliver, endpoint


class TwoDevices(RuleBasedStateMachine):
    node: type[Node] = Node

    @initialize(psk=st.booleans(), keepalive=st.sampled_from([0, 25]), knows_back=st.booleans())
    def start(self, psk: bool, keepalive: int, knows_back: bool) -> None:
        self.a, self.b = self.node(1), self.node(2)
        key = b"p" * 32 if psk else None
        self.a.knows(self.b, preshared_key=key, persistent_keepalive=keepalive)
        self.b.knows(self.a, preshared_key=key, endpoint=knows_back)
        self.network = Network(self.a, self.b)
        self.network.tamper = self.tamper
        self.plan: list[tuple[str, float]] = []
        self.sent: dict[Node, Counter[bytes]] = {self.a: Counter(), self.b: Counter()}
        self.number = 0
        self.restarts: list[float] = []

    def tamper(self, seen: Seen) -> list[tuple[float, bytes]]:
        if not self.plan:
            return deliver(seen)
        what, much = self.plan.pop(0)
        if what == "lose":
            return []
        if what == "delay":
            return [(much, seen.data)]
        if what == "duplicate":
            return [(0.0, seen.data), (much, seen.data)]
        spoiled = bytearray(seen.data)
        spoiled[int(much * 1000) % len(spoiled)] ^= 1 << int(much * 7) % 8
        return [(0.0, bytes(spoiled))]

    @rule(
        plan=st.lists(st.tuples(st.sampled_from(["lose", "delay", "duplicate", "spoil"]), st.floats(0, 20)), max_size=6)
    )
    def misbehave(self, plan: list[tuple[str, float]]) -> None:
        self.plan = plan

    @rule(sender=st.booleans(), size=st.integers(0, 100))
    def send(self, sender: bool, size: int) -> None:
        source, target = (self.a, self.b) if sender else (self.b, self.a)
        self.number += 1
        packet = source.packet(target, self.number.to_bytes(4, "big") + bytes(size))
        self.sent[source][packet] += 1
        self.network.send(source, packet)

    @rule(seconds=st.sampled_from([0.05, 1.0, 6.0, 11.0, 16.0, 125.0, 200.0, 600.0]))
    def wait(self, seconds: float) -> None:
        self.network.run(seconds)

    @rule(port=st.integers(1, 65535))
    def roam(self, port: int) -> None:
        self.a.address = endpoint("198.51.100.7", port)

    @rule()
    def forget_everything_and_restart(self) -> None:
        """b's process is restarted: same keys and peers, no sessions."""
        self.restarts.append(self.network.now)
        self.b.device.remove_peer(self.b.device.peers[self.a.public])
        self.b.knows(self.a, preshared_key=self.a.device.peers[self.b.public].preshared_key)

    @precondition(lambda self: self.network.wire)
    @rule(which=st.integers(0, 10**6))
    def replay(self, which: int) -> None:
        seen = self.network.wire[which % len(self.network.wire)]
        self.network.inject(seen.data, seen.source.address, seen.destination)

    @rule(data=st.binary(max_size=200))
    def forge(self, data: bytes) -> None:
        self.network.inject(data, self.a.address, self.b.address)

    @rule(loaded=st.booleans())
    def load(self, loaded: bool) -> None:
        self.network.under_load = {self.b} if loaded else set()

    @invariant()
    def only_what_was_sent_arrives_and_once(self) -> None:
        for receiver, sender in ((self.a, self.b), (self.b, self.a)):
            assert not Counter(receiver.received) - self.sent[sender]

    @invariant()
    def no_counter_carries_two_plaintexts(self) -> None:
        messages = {(seen.source.number, seen.data[:16]): 0 for seen in self.network.wire if seen.kind == 4}
        assert len(messages) == sum(seen.kind == 4 for seen in self.network.wire)

    @invariant()
    def handshakes_are_bounded(self) -> None:
        for node in (self.a, self.b):
            times = [seen.time for seen in self.network.wire if seen.kind == 1 and seen.source is node]
            for earlier, later in pairwise(times):
                restarted = node is self.b and any(earlier <= time <= later for time in self.restarts)
                assert restarted or later - earlier >= REKEY_TIMEOUT - 1e-6
            assert len(node.device._sessions) <= 3
            assert len(node.device._initiators) <= 1

    def teardown(self) -> None:
        if not hasattr(self, "network"):
            return
        self.plan = []
        self.network.under_load = set()
        self.network.run(40)
        # b may know a's former address only, or none: a speaks first, again and again as an application does.
        for round_ in range(15):
            for source, target in ((self.a, self.b), (self.b, self.a)):
                packet = source.packet(target, b"recovered" + bytes([round_]))
                self.sent[source][packet] += 1
                self.network.send(source, packet)
                self.network.run(2)
        for source, target in ((self.a, self.b), (self.b, self.a)):
            assert source.packet(target, b"recovered" + bytes([14])) in target.received
        self.only_what_was_sent_arrives_and_once()
        self.no_counter_carries_two_plaintexts()
        self.handshakes_are_bounded()


class TwoOffloadedDevices(TwoDevices):
    """The same, with native datapaths (their doubles) carrying the data."""

    node = OffloadNode


TestTwoDevices = TwoDevices.TestCase
TestTwoDevices.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestTwoOffloadedDevices = TwoOffloadedDevices.TestCase
TestTwoOffloadedDevices.settings = TestTwoDevices.settings
