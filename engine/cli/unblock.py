"""`molehill unblock`: the explicit disconnect when nobody runs who could be told to disconnect."""

from __future__ import annotations

import click

from engine.cli.main import BAD_INPUT, Fault


@click.command("unblock")
@click.option("--interface", default=None, metavar="NAME", help="The TUN left behind; not needed if its run was here.")
def command(interface: str | None) -> None:
    """Remove the block that a run left behind: one that was killed, or had --always-require-vpn.

    While a run is active this is refused: end that one by Ctrl-C.
    """
    import asyncio

    from engine.cli.require import require_privilege
    from engine.firewall import FirewallError
    from engine.host import DnsError, HostError
    from engine.service import Unavailable, remove_block
    from engine.service.control import remove_stale
    from tun.linux import NAME

    if interface is not None and not NAME.fullmatch(interface):
        raise Fault(f"{interface!r} is no interface name", BAD_INPUT)
    require_privilege()
    try:
        asyncio.run(remove_block(interface))
    except (Unavailable, HostError, DnsError, FirewallError) as error:
        raise Fault(str(error)) from None
    except ValueError as error:  # MOLEHILL_DNS
        raise Fault(str(error), BAD_INPUT) from None
    remove_stale()
    click.echo("nothing is blocked by molehill any more")
