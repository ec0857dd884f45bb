"""The settings of a policy as options, the same for `explain`, `audit` and `policy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import BAD_INPUT, Fault

if TYPE_CHECKING:
    from engine.policy import Policy

_HELP = {
    "platform": ("PLATFORM", "linux (default), macos, windows, android or ios."),
    "allow-lan": (None, "The local network may be reached."),
    "always-require-vpn": (None, "Disconnected blocks, too."),
    "peer": ("IP:PORT/PROTO", "The VPN server, such as 198.51.100.7:51820/udp."),
    "bridge": ("IP:PORT/PROTO", "The first hop instead of it, such as 203.0.113.9:443/tcp."),
    "api": ("IP:PORT/PROTO", "The API's endpoint."),
    "tunnel": ("NAME", "The tunnel device. Default: molehill0, if connected."),
    "tunnel-address": ("IP", "The tunnel's own address, may be repeated."),
    "gateway": ("IP", "The relay's address in the tunnel, which answers DNS; may be repeated."),
    "dns": ("IP", "A custom DNS server, may be repeated."),
    "kept": ("STATE", "While disconnecting: the state before. Default: connected."),
    "ios-blocking": (None, "On iOS: the variant that blocks."),
}


def with_settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options; their values arrive as keyword arguments, for `chosen`."""
    for name, (metavar, text) in reversed(_HELP.items()):
        if metavar is None:
            command = click.option(f"--{name}", is_flag=True, help=text)(command)
        else:
            command = click.option(f"--{name}", multiple=True, metavar=metavar, help=text)(command)
    return command


_STATES = "disconnected, connecting, connected, disconnecting or error."
state_option = click.option("--state", required=True, metavar="STATE", help=_STATES)
any_state_option = click.option("--state", metavar="STATE", help=f"{_STATES} Default: the policy in force, as the "
                                "daemon tells it.")  # fmt: skip


def chosen(options: dict[str, Any]) -> dict[str, list[str]]:
    """The options that were given, as engine.explain.settings reads them."""
    found: dict[str, list[str]] = {}
    for option, value in options.items():
        name = option.replace("_", "-")
        if name == "state" and value:
            found[name] = [value]
        elif name in _HELP and value:
            found[name] = ["yes"] if value is True else list(value)
    return found


def policy_from(options: dict[str, Any]) -> Policy:
    """The policy of the options. Fault (exit code 2) with one sentence."""
    from engine.explain.settings import policy_of

    try:
        return policy_of(chosen(options))
    except ValueError as error:
        raise Fault(str(error), BAD_INPUT) from None
