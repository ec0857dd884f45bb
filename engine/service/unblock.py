"""The explicit disconnect without a session: what a killed run, or one with "always require VPN", left behind."""

import asyncio
from contextlib import closing

from engine.host import Host, SystemDns
from engine.policy import MARK
from engine.service import place
from engine.service.firewall import Nftables


async def remove_block(interface: str | None) -> None:
    """Remove routes, resolvers and firewall table, so that nothing is blocked any more (DIS-1).

    `interface` None: the one into which our routes lead.
    Raises Unavailable while a session runs, HostError, DnsError or FirewallError when the machine refuses; what can be
    removed is removed nevertheless.
    """
    with closing(place.take()):
        host, dns, firewall = Host(), SystemDns(), Nftables()
        try:
            work = (host.release(interface, MARK), firewall.remove(), dns.recover())
            for failure in await asyncio.gather(*work, return_exceptions=True):
                if failure is not None:
                    raise failure
        finally:
            await host.close()
            await dns.close()
            await firewall.close()
