"""What the engine asks of a TUN device, whatever it is made of, and the kernel's numbers for the ioctls.

A device is a file descriptor that gives and takes one IP packet a call (no protocol header in front),
preceded by the 10 bytes of `struct virtio_net_hdr` when `vnet_hdr` is set. The engine's native datapath reads
and writes the descriptor itself; the Python object stays the owner and must live as long as the descriptor is
in use.
"""

from typing import Final, Protocol

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETPERSIST: Final = 0x400454CB
TUNSETOFFLOAD: Final = 0x400454D0
TUNGETIFF: Final = 0x800454D2
TUNSETVNETHDRSZ: Final = 0x400454D8

# What TUNSETOFFLOAD offers: the kernel may hand us packets with open checksums and super-packets of TCP and
# UDP.
TUN_F_CSUM: Final = 0x01
TUN_F_TSO4: Final = 0x02
TUN_F_TSO6: Final = 0x04
TUN_F_USO4: Final = 0x20
TUN_F_USO6: Final = 0x40

VNET_HDR_LEN: Final = 10  # struct virtio_net_hdr without num_buffers: the layout that native/ reads


class TunError(Exception):
    """A device cannot be had: one sentence that says why and what to do."""


class Device(Protocol):
    """A source and sink of IP packets behind one non-blocking, close-on-exec file descriptor."""

    @property
    def name(self) -> str:
        """The interface's name, or a made-up one when there is no interface."""

    @property
    def mtu(self) -> int:
        """The largest IP packet in bytes, as it is now: `ip link set mtu` may change it at any time."""

    @property
    def vnet_hdr(self) -> bool:
        """Whether a virtio header of VNET_HDR_LEN bytes precedes each packet."""

    @property
    def offloads(self) -> int:
        """The TUN_F_* bits in force (0 without `vnet_hdr`)."""

    def fileno(self) -> int:
        """The descriptor, owned by the device; -1 when closed."""

    def queues(self) -> tuple[int, ...]:
        """The descriptors of all its queues, this one first. Each flow's packets come by one of them."""

    def close(self) -> None:
        """Close the descriptor; a second call does nothing. Nobody may be using the descriptor any more."""
