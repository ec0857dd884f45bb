"""`molehill bridge-relay`: the far end of a bridge, for people who run a relay, and for tests."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import BAD_INPUT, Fault

if TYPE_CHECKING:
    from engine.bridge.settings import IPAddress


class _Endpoint(click.ParamType):  # type: ignore[type-arg]  # generic only since click 8.2
    """An address and a port on the command line."""

    name = "ADDR:PORT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[IPAddress, int]:
        from engine.bridge import parse_endpoint

        try:
            return parse_endpoint(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@click.group("bridge-relay")
def command() -> None:
    """Run the far end of a bridge on a relay.

    A relay for Shadowsocks bridges is not here: any Shadowsocks server with UDP will do.
    """


@command.command("udp-over-tcp")
@click.option("--listen", required=True, type=_Endpoint(), help="Where bridges connect to.")
@click.option("--to", required=True, type=_Endpoint(), help="The WireGuard server that gets the datagrams.")
@click.option(
    "--max-connections",
    default=256,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="More are closed at once.",
)
@click.option(
    "--max-per-address", default=16, show_default=True, type=click.IntRange(1, 100_000),
    help="Of one address (IPv6: of one /64); more are closed at once.",
)  # fmt: skip
@click.option(
    "--idle-timeout", default=600, show_default=True, type=click.IntRange(1), metavar="SECONDS",
    help="A connection that carries nothing for so long is ended.",
)  # fmt: skip
@click.option("--verbose", "-v", is_flag=True, help="Tell of each connection, on standard error.")
def udp_over_tcp(
    listen: tuple[IPAddress, int],
    to: tuple[IPAddress, int],
    max_connections: int,
    max_per_address: int,
    idle_timeout: int,
    verbose: bool,
) -> None:
    """Take UDP-over-TCP connections and pass their datagrams on to one WireGuard server.

    Each connection has a UDP port of its own towards the server. No privilege is needed but the one for a port below
    1024. It ends by Ctrl-C or SIGTERM.

    \b
    Examples:
      molehill bridge-relay udp-over-tcp --listen 0.0.0.0:443 --to 127.0.0.1:51820
      molehill bridge-relay udp-over-tcp --listen '[::]:443' --to '[2001:db8::1]:51820' -v
    """
    import uvloop

    from engine.bridge import BridgeError

    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="molehill: %(message)s")
    try:
        _raise_file_limit(2 * max_connections + 64)  # two sockets each
    except ValueError:
        raise Fault(
            f"{max_connections} connections need more open files than the system allows: raise `ulimit -Hn`, "
            "or give a smaller --max-connections",
            BAD_INPUT,
        ) from None
    try:
        uvloop.run(_serve(listen, to, max_connections, max_per_address, idle_timeout))
    except BridgeError as error:
        raise Fault(str(error)) from None


def _raise_file_limit(wanted: int) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))


async def _serve(
    listen: tuple[IPAddress, int], to: tuple[IPAddress, int], max_connections: int, max_per_address: int, idle: int
) -> None:
    import asyncio

    from engine.bridge import endpoint_text
    from engine.bridge.relay import Relay

    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    relay = Relay(to, max_connections=max_connections, max_per_address=max_per_address, idle_seconds=idle)
    port = relay.start(*listen)
    click.echo(f"UDP over TCP from {endpoint_text(listen[0], port)} to {endpoint_text(*to)}")
    await ended.wait()
    relay.close()
