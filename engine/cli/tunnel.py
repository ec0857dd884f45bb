"""`molehill tunnel import|list|choose|remove`: the WireGuard files that the daemon knows."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.main import BAD_INPUT, Fault, Group, did_you_mean
from engine.cli.management import daemon, echo_json, json_option, names_of

if TYPE_CHECKING:
    from engine.management.client import Client

_MAX_CONF = 256 << 10  # bytes: far more than any file with its peers


def _names(client: Client) -> list[str]:
    from engine.management.schema import Tunnels

    return [tunnel.name for tunnel in client.call("tunnel.list", None, Tunnels).tunnels]


_complete = names_of(_names)


@click.group("tunnel", cls=Group)
def command() -> None:
    """Import WireGuard files, and choose the one to connect by.

    \b
    Examples:
      molehill tunnel import se1.conf
      molehill tunnel list
      molehill tunnel choose se1 && molehill reconnect --wait
      molehill tunnel remove se1
    """


@command.command("import")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path, allow_dash=True))
@click.option("--name", metavar="NAME", help="Its name from now on. Default: FILE's, without .conf.")
@click.option("--replace", is_flag=True, help="Over the tunnel that has this name.")
@json_option
def import_(file: Path, name: str | None, replace: bool, as_json: bool) -> None:
    """Import the WireGuard configuration FILE (- is standard input). The first one imported is chosen.

    The private key is kept in a file that root alone may read, and never shown again.

    \b
    Examples:
      molehill tunnel import ~/Downloads/se1.conf
      molehill tunnel import se1.conf --replace
      pass show vpn/se1 | molehill tunnel import - --name se1
    """
    from engine.management.schema import Imported, ImportTunnel

    if str(file) == "-" and name is None:
        raise Fault("a tunnel from standard input needs a name: --name NAME", BAD_INPUT)
    text = _read(file)
    with daemon() as client:
        asked = ImportTunnel(name or file.name.removesuffix(".conf"), text, replace)
        imported = client.call("tunnel.import", asked, Imported)
    for notice in imported.notices:
        click.echo(f"molehill: {file}: {notice}", err=True)
    if as_json:
        echo_json(imported)
    else:
        click.echo(f"imported {imported.tunnel.name}: {', '.join(imported.tunnel.addresses)}")


def _read(path: Path) -> str:
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_MAX_CONF + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_MAX_CONF + 1)
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    if len(data) > _MAX_CONF:
        raise Fault(f"{path}: it is longer than {_MAX_CONF >> 10} KiB", BAD_INPUT)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise Fault(f"{path}: byte {error.start + 1} is no UTF-8 text", BAD_INPUT) from None


@command.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the imported tunnels; the chosen one has a star."""
    from engine.management.schema import Settings, TunnelChoice, Tunnels

    with daemon() as client:
        tunnels = client.call("tunnel.list", None, Tunnels).tunnels
        choice = client.call("settings.get", None, Settings).choice
    if as_json:
        echo_json({"tunnels": tunnels, "choice": choice})
        return
    if not tunnels:
        click.echo("none yet: molehill tunnel import FILE", err=True)
    width = max((len(tunnel.name) for tunnel in tunnels), default=0)
    for tunnel in tunnels:
        star = "*" if choice == TunnelChoice(tunnel.name) else " "
        click.echo(f"{star} {tunnel.name:{width}}  {tunnel.endpoint or 'no endpoint'}  {', '.join(tunnel.addresses)}")


@command.command("choose")
@click.argument("name", shell_complete=_complete)
@json_option
def choose(name: str, as_json: bool) -> None:
    """Connect by the tunnel NAME from now on; if connected, molehill reconnects."""
    from engine.management.schema import Settings, SettingsPatch, TunnelChoice

    with daemon() as client:
        _check(client, name)
        settings = client.call("settings.set", SettingsPatch(choice=TunnelChoice(name)), Settings)
    if as_json:
        echo_json({"choice": settings.choice})
    else:
        click.echo(f"chosen: {name}")


@command.command("remove")
@click.argument("name", shell_complete=_complete)
@json_option
def remove(name: str, as_json: bool) -> None:
    """Remove the tunnel NAME and its keys."""
    from engine.management.schema import Name, Tunnels

    with daemon() as client:
        _check(client, name)
        left = client.call("tunnel.remove", Name(name), Tunnels)
    if as_json:
        echo_json(left)
    else:
        click.echo(f"removed: {name}")


def _check(client: Client, name: str) -> None:
    """Fault with the nearest name if there is none so."""
    names = _names(client)
    if name not in names:
        raise Fault(f"there is no tunnel {name!r}{did_you_mean(name, names)}", BAD_INPUT)
