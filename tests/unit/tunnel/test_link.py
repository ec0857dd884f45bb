"""The size of super-packets."""

from engine.tunnel.link import gso_max_size

MAX_TCP_HEADER = 384  # at most, whatever the kernel was built with


def test_a_super_packet_is_as_large_as_one_send_at_every_mtu() -> None:
    assert (gso_max_size(1420) - MAX_TCP_HEADER) // 1368 == 44
    for mtu in range(576, 65000, 17):
        size = gso_max_size(mtu)
        segments = max(1, size // (mtu - 52))
        assert segments <= 64
        assert segments * (mtu + 32) <= 65032
        assert mtu <= size <= 65536
