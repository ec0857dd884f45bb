"""`molehill bridge get|set`: a first hop in front of the VPN server (CON-1).

A password comes from a prompt or from a file that only its owner may read, never from the command line: other users
see that in the list of processes, and shells keep it in their history.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.main import BAD_INPUT, Fault, Group
from engine.cli.management import ask, echo_json, json_option

if TYPE_CHECKING:
    from engine.management.schema import Bridge, Settings

_MAX_PASSWORD = 1024  # bytes


@click.group("bridge", cls=Group)
def command() -> None:
    """Go to the VPN server by way of a bridge.

    It carries or disguises the tunnel. While a bridge is used, only the bridge may be reached outside the tunnel, the
    VPN server may not.

    \b
    Examples:
      molehill bridge get
      molehill bridge set udp-over-tcp 203.0.113.9:443
      molehill bridge set shadowsocks 203.0.113.9:443 --cipher chacha20-ietf-poly1305
      molehill bridge set auto
      molehill bridge set off
    """


@command.command("get")
@json_option
def get(as_json: bool) -> None:
    """Show the bridge, without its password."""
    from engine.management.schema import Settings

    _show(ask("settings.get", None, Settings), as_json)


@command.group("set", cls=Group)
def set_() -> None:
    """Use a bridge, or none."""


@set_.command("off")
@json_option
def off(as_json: bool) -> None:
    """Go to the VPN server directly."""
    _set(None, None, as_json)


@set_.command("auto")
@json_option
def auto(as_json: bool) -> None:
    """Go directly, and after two attempts in vain every other time by a bridge that a relay of the list offers.

    Those for UDP over TCP; with a tunnel of a file of yours it is always directly.
    """
    from engine.management.schema import Bridge, BridgeKind

    _set(Bridge(BridgeKind.AUTO), None, as_json)


@set_.command("udp-over-tcp")
@click.argument("endpoint", metavar="IP:PORT")
@json_option
def udp_over_tcp(endpoint: str, as_json: bool) -> None:
    """Carry the tunnel's datagrams in a TCP connection to IP:PORT."""
    from engine.management.schema import Bridge, BridgeKind

    _set(Bridge(BridgeKind.UDP_OVER_TCP, endpoint), None, as_json)


@set_.command("shadowsocks")
@click.argument("endpoint", metavar="IP:PORT")
@click.option("--cipher", required=True, metavar="NAME", help="chacha20-ietf-poly1305 or aes-256-gcm.")
@click.option("--password-file", type=click.Path(path_type=Path), metavar="FILE",
              help="A file with the password, readable by its owner alone. Default: you are asked.")  # fmt: skip
@json_option
def shadowsocks(endpoint: str, cipher: str, password_file: Path | None, as_json: bool) -> None:
    """Carry the tunnel through the Shadowsocks server at IP:PORT.

    \b
    Examples:
      molehill bridge set shadowsocks 203.0.113.9:443 --cipher aes-256-gcm
      molehill bridge set shadowsocks 203.0.113.9:443 --cipher chacha20-ietf-poly1305 --password-file ss.key
    """
    from engine.management.schema import Bridge, BridgeKind

    password = _asked() if password_file is None else read_password(password_file)
    _set(Bridge(BridgeKind.SHADOWSOCKS, endpoint, cipher), password, as_json)


def _asked() -> str:
    if not sys.stdin.isatty():
        raise Fault("there is no terminal to ask for the password on: use --password-file FILE", BAD_INPUT)
    password: str = click.prompt("Password of the bridge", hide_input=True, err=True)
    return password


def read_password(path: Path) -> str:
    """The file's only line. Fault if others may read it."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read(_MAX_PASSWORD + 1)
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    if stat.S_IMODE(mode) & 0o077:
        raise Fault(f"{path}: others than its owner may read it: chmod 600 {path}", BAD_INPUT)
    try:
        password = text.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        password = ""
    if not password or "\n" in password or len(text) > _MAX_PASSWORD:
        raise Fault(f"{path}: it must have one line of text with the password", BAD_INPUT)
    return password


def _set(bridge: Bridge | None, password: str | None, as_json: bool) -> None:
    from engine.management.schema import SetBridge, Settings

    _show(ask("bridge.set", SetBridge(bridge, password), Settings), as_json)


def _show(settings: Settings, as_json: bool) -> None:
    if as_json:
        echo_json({"bridge": settings.bridge})
    elif settings.bridge is None:
        click.echo("off")
    else:
        click.echo(" ".join(filter(None, (settings.bridge.kind, settings.bridge.endpoint, settings.bridge.cipher))))
