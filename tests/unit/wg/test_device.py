"""Two whole Devices on a virtual network: handshakes, data, roaming, refusals."""

from tests.virtual import Network, Node, pair


def test_a_packet_makes_a_handshake_and_arrives() -> None:
    network, a, b = pair()
    packet = a.packet(b, b"hello")
    network.send(a, packet)
    network.run(1)
    assert b.received == [packet]
    assert network.kinds() == [1, 2, 4]


def test_both_directions_share_one_session() -> None:
    network, a, b = pair(preshared_key=b"p" * 32)
    network.send(a, a.packet(b, b"there"))
    network.run(1)
    network.send(b, b.packet(a, b"and back"))
    network.run(1)
    assert a.received == [b.packet(a, b"and back")]
    assert network.kinds() == [1, 2, 4, 4]
    assert a.sessions == b.sessions == 1


def test_different_preshared_keys_give_no_session() -> None:
    a, b = Node(1), Node(2)
    a.knows(b, preshared_key=b"p" * 32)
    b.knows(a, preshared_key=b"q" * 32)
    network = Network(a, b)
    network.send(a, a.packet(b))
    network.run(4)
    assert a.sessions == 0
    assert not b.received
