"""The explicit disconnect without a session: what a killed run, or one with "always require VPN", left behind."""

from contextlib import closing

from engine.host import Host, SystemDns
from engine.policy import MARK
from engine.service import place
from engine.service.firewall import Nftables


async def remove_block(interface: str | None) -> None:
    """Remove routes, resolvers and firewall table, so that nothing is blocked any more (DIS-1).

    `interface` None: the one into which our routes lead.
    Raises Unavailable while a session runs, HostError, DnsError or FirewallError when the machine refuses.
    """
    with closing(place.take()):
        host, dns, firewall = Host(), SystemDns(), Nftables()
        try:
            await host.release(interface, MARK)
            await dns.recover()
            await firewall.remove()
        finally:
            await host.close()
            await dns.close()
            await firewall.close()
