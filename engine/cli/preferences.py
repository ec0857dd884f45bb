"""`molehill lan|dns|lockdown|auto-connect|mtu|api get|set` and `reset-settings`: what the user decides, one by one.

`get` and `set` both show the setting in the word that `set` takes, and what it means. The daemon checks the values: its
sentence is the user's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import Group
from engine.cli.management import ask, echo_json, json_option

if TYPE_CHECKING:
    from engine.management.schema import Settings


def _settings() -> Settings:
    from engine.management.schema import Settings

    return ask("settings.get", None, Settings)


def _change(**fields: Any) -> Settings:
    from engine.management.schema import Settings, SettingsPatch

    return ask("settings.set", SettingsPatch(**fields), Settings)


def _show(settings: Settings, field: str, as_json: bool, words: Callable[[Settings], str]) -> None:
    if as_json:
        echo_json({field: getattr(settings, field)})
    else:
        click.echo(words(settings))


def _switch(name: str, field: str, words: dict[str, str], help_: str) -> click.Group:
    """A setting of two values. `words`: what `set` takes for true and for false, and what each means."""
    yes, no = words

    def told(settings: Settings) -> str:
        word = yes if getattr(settings, field) else no
        return f"{word}: {words[word]}"

    group = Group(name, help=help_)

    @group.command("get")
    @json_option
    def get(as_json: bool) -> None:
        """Show the setting."""
        _show(_settings(), field, as_json, told)

    @group.command("set")
    @click.argument("value", type=click.Choice([yes, no]))
    @json_option
    def set_(value: str, as_json: bool) -> None:
        """Change the setting, from now on."""
        _show(_change(**{field: value == yes}), field, as_json, told)

    return group


lan = _switch(
    "lan",
    "allow_lan",
    {
        "allow": "the local network may be reached, its DNS never",
        "block": "the local network may not be reached",
    },
    """Let the local network be reached, or not.

    Allowed are the private ranges of IPv4 and IPv6 and the local multicast groups, but never DNS.

    \b
    Examples:
      molehill lan get
      molehill lan set allow
    """,
)

lockdown = _switch(
    "lockdown",
    "always_require_vpn",
    {
        "on": "without the VPN everything is blocked, also while disconnected",
        "off": "while disconnected, nothing is blocked",
    },
    """Always require the VPN: block while disconnected, too.

    While disconnected, a change blocks or opens at once.

    \b
    Examples:
      molehill lockdown get
      molehill lockdown set on
    """,
)

auto_connect = _switch(
    "auto-connect",
    "auto_connect",
    {
        "on": "the service connects as soon as it starts",
        "off": "the service starts disconnected",
    },
    """Connect as soon as the service starts, or not.

    \b
    Examples:
      molehill auto-connect get
      molehill auto-connect set on
    """,
)


@click.group("dns", cls=Group)
def dns() -> None:
    """Choose who answers DNS while connected.

    By default only the relay's own resolver, inside the tunnel. Custom servers are asked instead, and then only these:
    inside the tunnel, but those with a private or loopback address outside it.

    \b
    Examples:
      molehill dns get
      molehill dns set custom 9.9.9.9 2620:fe::fe
      molehill dns set custom 192.168.1.53
      molehill dns set default
    """


def _dns_words(settings: Settings) -> str:
    return f"custom: {', '.join(settings.dns)}" if settings.dns else "default: the relay's own, inside the tunnel"


@dns.command("get")
@json_option
def dns_get(as_json: bool) -> None:
    """Show who is asked."""
    _show(_settings(), "dns", as_json, _dns_words)


@dns.group("set", cls=Group)
def dns_set() -> None:
    """Have the relay's resolver asked, or other servers."""


@dns_set.command("default")
@json_option
def dns_default(as_json: bool) -> None:
    """Ask the relay's own resolver."""
    _show(_change(dns=()), "dns", as_json, _dns_words)


@dns_set.command("custom")
@click.argument("servers", nargs=-1, required=True, metavar="IP...")
@json_option
def dns_custom(servers: tuple[str, ...], as_json: bool) -> None:
    """Ask the servers with the addresses IP, and no others."""
    _show(_change(dns=servers), "dns", as_json, _dns_words)


@click.group("mtu", cls=Group)
def mtu() -> None:
    """Choose the tunnel's MTU, in bytes.

    \b
    Examples:
      molehill mtu get
      molehill mtu set 1280
      molehill mtu set auto
    """


def _mtu_words(settings: Settings) -> str:
    return "auto: from the route to the server, then probed" if settings.mtu is None else str(settings.mtu)


@mtu.command("get")
@json_option
def mtu_get(as_json: bool) -> None:
    """Show the setting; the MTU that is in use is in molehill status -v."""
    _show(_settings(), "mtu", as_json, _mtu_words)


@mtu.command("set")
@click.argument("value", metavar="auto|BYTES")
@json_option
def mtu_set(value: str, as_json: bool) -> None:
    """Set the MTU to so many bytes, or let it be found out."""
    if value != "auto" and not (value.isdecimal() and len(value) < 6):
        raise click.BadParameter(f"{value!r} is neither auto nor a number of bytes")
    _show(_change(mtu=None if value == "auto" else int(value)), "mtu", as_json, _mtu_words)


@click.group("api", cls=Group)
def api() -> None:
    """Choose the API's endpoint, where problem reports go.

    There is none by default. Outside Connected it is let through for processes that run as root; in Connected it is
    reached inside the tunnel.

    \b
    Examples:
      molehill api get
      molehill api set 203.0.113.7:443/tcp
      molehill api set none
    """


def _api_words(settings: Settings) -> str:
    return settings.api or "none"


@api.command("get")
@json_option
def api_get(as_json: bool) -> None:
    """Show the endpoint."""
    _show(_settings(), "api", as_json, _api_words)


@api.command("set")
@click.argument("endpoint", metavar="none|IP:PORT/PROTO")
@json_option
def api_set(endpoint: str, as_json: bool) -> None:
    """Let this endpoint be reached, or none."""
    _show(_change(api=None if endpoint == "none" else endpoint), "api", as_json, _api_words)


@click.command("reset-settings")
@click.option("--yes", "-y", is_flag=True, help="Do it without asking.")
@json_option
def reset(yes: bool, as_json: bool) -> None:
    """Put all settings back to their defaults.

    Imported tunnels stay. This is also the way out when the settings cannot be read and the service therefore blocks.

    \b
    Example:
      molehill reset-settings --yes
    """
    from engine.management.schema import Settings

    if not yes:
        click.confirm("All settings back to their defaults, lockdown off?", abort=True, err=True)
    settings = ask("settings.reset", None, Settings)
    if as_json:
        echo_json(settings)
    else:
        click.echo("the settings are the defaults")
