"""Two whole engines in one process, on devices in memory: the wrappers carry what the engine carries."""

import asyncio
import os
from ipaddress import ip_network
from pathlib import Path

import dpkt
import uvloop
from scapy.layers.inet import IP, UDP

from engine.filter import PASS_ALL
from engine.tunnel.tunnel import Tunnel
from engine.wg.config import DeviceConfig, HostPort, PeerConfig
from engine.wg.keys import clamp, public_key
from tun import FaultPlan, FaultTun, FdTun, PcapTun, pair

PRIVATE = [clamp(bytes([n]) * 32) for n in (1, 2)]
PACKETS = [bytes(IP(src="10.0.0.1", dst="10.0.0.2") / UDP(dport=5) / (bytes([n]) * 100)) for n in range(20)]


async def received(device: FdTun, count: int) -> list[bytes]:
    """The next `count` packets out of a device."""
    packets: list[bytes] = []
    done = asyncio.Event()

    def read() -> None:
        packets.append(os.read(device.fileno(), 70_000))
        if len(packets) == count:
            done.set()

    asyncio.get_running_loop().add_reader(device.fileno(), read)
    try:
        await asyncio.wait_for(done.wait(), 10)
    finally:
        asyncio.get_running_loop().remove_reader(device.fileno())
    return packets


def test_a_tunnel_runs_over_a_recorded_and_over_a_faulty_device(tmp_path: Path) -> None:
    async def scenario() -> list[bytes]:
        (app, inside), (far_app, far_inside) = pair(), pair()
        recorded = PcapTun(inside, tmp_path / "tun.pcap")
        faulty = FaultTun(far_inside, FaultPlan(1, duplicate=1.0))
        near, far = Tunnel(recorded), Tunnel(faulty)
        for tunnel in (near, far):
            await tunnel.start()
            tunnel.apply(PASS_ALL)
        await far.configure(
            DeviceConfig(
                PRIVATE[1], peers=(PeerConfig(public_key(PRIVATE[0]), allowed_ips=(ip_network("10.0.0.1/32"),)),)
            )
        )
        endpoint = HostPort("127.0.0.1", far.config.listen_port)
        peer = PeerConfig(public_key(PRIVATE[1]), endpoint=endpoint, allowed_ips=(ip_network("10.0.0.2/32"),))
        await near.configure(DeviceConfig(PRIVATE[0], peers=(peer,)))
        for packet in PACKETS:
            os.write(app.fileno(), packet)
        try:
            return await received(far_app, 2 * len(PACKETS))
        finally:
            for tunnel in (near, far):
                await tunnel.close()
            for device in (recorded, faulty, app, far_app):
                device.close()

    assert uvloop.run(scenario()) == [packet for packet in PACKETS for _ in range(2)]
    with open(tmp_path / "tun.pcap", "rb") as file:
        assert [packet for _, packet in dpkt.pcap.Reader(file)] == PACKETS
