"""What an eavesdropper sees: types, lengths, no plaintext, one handshake; dissected by scapy, which shares no code."""

import warnings
from random import Random
from typing import Any

import pytest

from tests.virtual import Network, Node, pair

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # scapy's own deprecations at import
    from scapy.contrib.wireguard import (
        Wireguard,
        WireguardCookieReply,
        WireguardInitiation,
        WireguardResponse,
        WireguardTransport,
    )


def conversation() -> tuple[Network, Node, Node]:
    network, a, b = pair(preshared_key=b"p" * 32)
    random = Random(1)
    for i in range(60):
        network.send(a, a.packet(b, b"SECRET" + random.randbytes(i)))
        network.run(0.5)
        network.send(b, b.packet(a, b"SECRET" + random.randbytes(2 * i)))
        network.run(0.5)
    network.run(15)
    return network, a, b


def layer(data: bytes, kind: Any) -> Any:
    packet = Wireguard(data)
    assert packet.reserved_zero == 0
    assert kind in packet, packet.summary()
    assert bytes(packet) == data
    return packet[kind]


def test_one_minute_of_talk_is_exactly_one_handshake() -> None:
    network, _a, _b = conversation()
    assert network.kinds()[:3] == [1, 2, 4]
    assert network.kinds().count(1) == network.kinds().count(2) == 1
    assert set(network.kinds()[2:]) == {4}


def test_lengths_are_those_of_the_paper_and_data_is_padded_to_16() -> None:
    network, _a, _b = conversation()
    for seen in network.wire:
        match seen.kind:
            case 1:
                assert len(seen.data) == 148
            case 2:
                assert len(seen.data) == 92
            case 4:
                assert len(seen.data) >= 32
                assert len(seen.data) % 16 == 0


def test_nothing_readable_and_no_key_is_on_the_wire() -> None:
    network, a, b = conversation()
    whole = b"".join(seen.data for seen in network.wire)
    for secret in (b"SECRET", a.public, b.public, a.private, b.private, b"p" * 32, a.packet(b)[12:20]):
        assert secret not in whole


def test_counters_start_at_zero_and_never_repeat() -> None:
    network, a, b = conversation()
    for node in (a, b):
        counters = [
            layer(seen.data, WireguardTransport).counter
            for seen in network.wire
            if seen.kind == 4 and seen.source is node
        ]
        assert counters == list(range(len(counters)))


def test_scapy_reads_the_handshake_as_we_mean_it() -> None:
    network, a, b = conversation()
    initiation = layer(network.wire[0].data, WireguardInitiation)
    response = layer(network.wire[1].data, WireguardResponse)
    data = layer(network.wire[2].data, WireguardTransport)
    mine, theirs = a.device.peers[b.public].current, b.device.peers[a.public].current
    assert mine is not None
    assert theirs is not None
    assert response.receiver_index == initiation.sender_index == mine.local_index == theirs.remote_index
    assert data.receiver_index == response.sender_index == theirs.local_index == mine.remote_index
    assert initiation.mac2 == response.mac2 == bytes(16)
    assert bytes(16) not in (initiation.mac1, response.mac1)


def test_scapy_reads_the_cookie_reply_as_we_mean_it() -> None:
    network, a, b = pair()
    network.under_load = {b}
    network.send(a, a.packet(b))
    network.run(1)
    initiation = layer(network.wire[0].data, WireguardInitiation)
    reply = layer(network.wire[1].data, WireguardCookieReply)
    assert reply.receiver_index == initiation.sender_index
    assert len(reply.nonce) == 24
    assert len(reply.encrypted_cookie) == 32


def test_two_handshakes_share_nothing_an_eavesdropper_could_link() -> None:
    network, a, b = pair()
    network.send(a, a.packet(b))
    network.run(700)
    network.send(a, a.packet(b))
    network.run(1)
    first, second = (seen.data for seen in network.wire if seen.kind == 1)
    for start, end in ((4, 8), (8, 40), (40, 88), (88, 116), (116, 132)):
        assert first[start:end] != second[start:end]


@pytest.mark.parametrize("node", [0, 1])
def test_indices_are_random_and_not_counted_up(node: int) -> None:
    indices = []
    for number in range(20):
        network = Network(Node(2 * number + 10), Node(2 * number + 11))
        a, b = network.nodes
        a.knows(b)
        b.knows(a)
        network.send(a, a.packet(b))
        network.run(1)
        indices.append(int.from_bytes(network.wire[node].data[4:8], "little"))
    assert len(set(indices)) == 20
    assert max(indices) - min(indices) > 2**24
