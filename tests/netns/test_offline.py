"""Is there a way out, past the tunnel: told when it goes and comes, in a real kernel."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address

import pytest

from engine.host import Host, HostError, OfflineMonitor
from engine.host.capture import IPAddress
from tests.netns.lab import Namespace
from tests.netns.test_host import FAR_V4, MARK, device

__all__ = ["device"]  # a fixture, used by its name
pytestmark = pytest.mark.netns


def test_going_offline_and_coming_back_is_noticed_once_each(device: Namespace) -> None:
    told: list[bool] = []

    async def work() -> None:
        host = Host()
        monitor = OfflineMonitor(host, MARK, told.append)
        monitor.watch(ip_address(FAR_V4))
        await until(lambda: not told, 0.3)
        await asyncio.to_thread(device.ip, "link set eth0 down")
        await until(lambda: told == [False], 10)
        await asyncio.to_thread(device.ip, "link set eth0 up")
        await asyncio.to_thread(device.ip, "route add default via 172.16.9.2")
        await until(lambda: told == [False, True], 10)
        assert await host.route_mtu(ip_address(FAR_V4), MARK) == 1500
        monitor.close()
        await host.close()

    async def until(ready: object, patience: float) -> None:
        assert callable(ready)
        deadline = asyncio.get_running_loop().time() + patience
        while not ready():
            assert asyncio.get_running_loop().time() < deadline, told
            await asyncio.sleep(0.02)

    asyncio.run(work())


def test_a_failed_question_says_neither_offline_nor_online_and_is_asked_again(device: Namespace) -> None:
    class Unwell(Host):
        ill = 0

        async def reachable(self, target: IPAddress, mark: int) -> bool:
            if self.ill:
                self.ill -= 1
                raise HostError("the kernel did not answer")
            return await super().reachable(target, mark)

    told: list[bool] = []

    async def work() -> None:
        host = Unwell()
        monitor = OfflineMonitor(host, MARK, told.append)
        monitor.watch(ip_address(FAR_V4))
        host.ill = 1
        await asyncio.to_thread(device.ip, "link set eth0 down")
        async with asyncio.timeout(10):
            while not told:
                await asyncio.sleep(0.02)
        monitor.close()
        await host.close()

    asyncio.run(work())
    assert told == [False]


def test_a_server_on_this_machine_is_reachable(device: Namespace) -> None:
    device.ip("link set lo up")

    async def work() -> bool:
        host = Host()
        try:
            return await host.reachable(ip_address("127.0.0.1"), MARK)
        finally:
            await host.close()

    assert asyncio.run(work())


def test_the_worker_thread_works_beside_uvloop(device: Namespace) -> None:
    import uvloop

    async def work() -> bool:
        host = Host()
        online = await host.reachable(ip_address(FAR_V4), MARK)
        await host.close()
        return online

    assert uvloop.run(work())
