"""Fuzz what a bridge reads from outside: python tests/fuzz/fuzz_bridge.py -runs=100000 [libFuzzer options].

Any stream, torn anywhere, gives the same datagrams and counts, and no more than went in; any packet is refused by a
Shadowsocks bridge, unless it was sealed with its password.
"""

import sys
from ipaddress import ip_address
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

with atheris.instrument_imports(include=["engine.bridge"]):
    from engine.bridge.frames import MAX_DATAGRAM, FrameReader
    from engine.bridge.settings import Cipher
    from engine.bridge.shadowsocks import SALT_BYTES, Packets

PACKETS = Packets(Cipher.CHACHA20_POLY1305, "secret", ip_address("198.51.100.10"), 51820)


def read(*parts: bytes) -> tuple[list[bytes], int]:
    reader = FrameReader()
    return [bytes(found) for part in parts for found in reader.feed(part)], reader.malformed


def one_input(data: bytes) -> None:
    if not data:
        return
    torn = data[0] * len(data) // 256
    found, malformed = read(data)
    if (found, malformed) != read(data[:torn], data[torn:]):
        raise RuntimeError("tearing the stream changed its datagrams")
    if any(not 0 < len(datagram) <= MAX_DATAGRAM for datagram in found):
        raise RuntimeError("a datagram that cannot be one")
    if sum(len(datagram) + 2 for datagram in found) + 2 * malformed > len(data):
        raise RuntimeError("more came out than went in")
    if PACKETS.open(data) is not None:
        raise RuntimeError("a packet that nobody sealed was opened")
    if PACKETS.open(PACKETS.seal(data, bytes(SALT_BYTES))) != data:
        raise RuntimeError("a sealed packet was not opened")


if __name__ == "__main__":
    atheris.Setup([sys.argv[0], "-max_len=70000", *sys.argv[1:]], one_input)
    atheris.Fuzz()
