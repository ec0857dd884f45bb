"""The README's example: the VPN service as a library."""

import asyncio
import sys

from engine.service import Builder, State
from engine.wg.conf import parse_conf


async def main(path: str) -> None:
    with open(path, encoding="utf-8") as file:
        conf = parse_conf(file.read())
    builder = Builder("linux").set_wireguard(conf.device)
    for address in conf.addresses:
        builder.add_address(address)
    for server in conf.dns:
        builder.add_gateway(server)  # answers DNS inside the tunnel; the first one is pinged to verify it
    session = await builder.establish()  # from here on nothing leaves but what the state permits
    async for status in session.watch():
        print(status.line())
        if status.state in (State.CONNECTED, State.ERROR):
            break
    await session.stop()  # the explicit disconnect; everything is as before


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
