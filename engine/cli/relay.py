"""`molehill relay list|get|set|load`: VPN servers from a list, chosen by where they are.

A relay of the list has no key of ours: that, and our addresses, come from an imported tunnel, the identity.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from engine.cli.main import BAD_INPUT, Fault, Group, did_you_mean
from engine.cli.management import ask, daemon, echo_json, json_option, names_of

if TYPE_CHECKING:
    from engine.management.client import Client
    from engine.management.schema import Relay, RelayChoice, Settings, TunnelChoice

_MAX_LIST = 1 << 19  # bytes: one message, with room for JSON-RPC's own


def _relays(client: Client) -> tuple[Relay, ...]:
    from engine.management.schema import RelayList

    return client.call("relay.list", None, RelayList).relays


def _tunnels(client: Client) -> list[str]:
    from engine.management.schema import Tunnels

    return [tunnel.name for tunnel in client.call("tunnel.list", None, Tunnels).tunnels]


_countries = names_of(lambda client: sorted({relay.country for relay in _relays(client)}))
_cities = names_of(lambda client: sorted({relay.city for relay in _relays(client)}))
_hostnames = names_of(lambda client: [relay.hostname for relay in _relays(client)])
_identities = names_of(_tunnels)


@click.group("relay", cls=Group)
def command() -> None:
    """Connect to a relay of a list instead of one fixed server.

    \b
    Examples:
      molehill relay load relays.json
      molehill relay list se
      molehill relay set location se Gothenburg
      molehill relay set location any --identity se1
    """


@command.command("list")
@click.argument("country", required=False, shell_complete=_countries)
@json_option
def list_(country: str | None, as_json: bool) -> None:
    """List the relays by country and city, or those of one COUNTRY."""
    from engine.management.schema import RelayList

    relays = ask("relay.list", None, RelayList).relays
    if country is not None:
        country = _known("country", country, {relay.country for relay in relays})
        relays = tuple(relay for relay in relays if relay.country == country)
    if as_json:
        echo_json(RelayList(relays=relays))
        return
    if not relays:
        click.echo("none yet: molehill relay load FILE", err=True)
    place = ""
    for relay in sorted(relays, key=lambda relay: (relay.country, relay.city, relay.hostname)):
        if place != f"{relay.country} {relay.city}":
            place = f"{relay.country} {relay.city}"
            click.secho(place, bold=True)
        bridges = f", {', '.join(sorted({bridge.kind for bridge in relay.bridges}))}" if relay.bridges else ""
        away = "" if relay.active else ", not active"
        click.echo(f"  {relay.hostname}  {relay.ipv4}{f', {relay.ipv6}' if relay.ipv6 else ''}{bridges}{away}")


@command.command("get")
@json_option
def get(as_json: bool) -> None:
    """Show what is connected to: a tunnel by its name, or relays by where they are."""
    from engine.management.schema import Settings

    _show(ask("settings.get", None, Settings), as_json)


@command.group("set", cls=Group)
def set_() -> None:
    """Choose which relays to connect to."""


@set_.command("location")
@click.argument("country", metavar="COUNTRY|any", shell_complete=_countries)
@click.argument("city", required=False, shell_complete=_cities)
@click.argument("hostname", required=False, shell_complete=_hostnames)
@click.option("--identity", metavar="TUNNEL", shell_complete=_identities,
              help="The imported tunnel whose key and addresses are used. Default: the one in use.")  # fmt: skip
@click.option("--ip-version", type=click.Choice(["4", "6"]), default="4", show_default=True,
              help="How the relay itself is reached.")  # fmt: skip
@json_option
def location(
    country: str, city: str | None, hostname: str | None, identity: str | None, ip_version: str, as_json: bool
) -> None:
    """Connect to a relay of this COUNTRY, CITY and HOSTNAME, or to any; the next one if it fails.

    \b
    Examples:
      molehill relay set location se
      molehill relay set location se Gothenburg se-got-wg-001
      molehill relay set location any --ip-version 6
    """
    from engine.management.schema import RelayChoice, Settings, SettingsPatch

    with daemon() as client:
        relays = _relays(client)
        if country == "any":
            if city is not None:
                raise Fault("any is every country: it has no CITY", BAD_INPUT)
            country = ""
        else:
            country = _known("country", country, {relay.country for relay in relays})
        if city is not None:
            relays = tuple(relay for relay in relays if relay.country == country)
            city = _known("city", city, {relay.city for relay in relays})
        if hostname is not None:
            hostname = _known("relay", hostname, {relay.hostname for relay in relays if relay.city == city})
        choice = RelayChoice(_identity(client, identity), country, city or "", hostname or "", int(ip_version))
        _show(client.call("settings.set", SettingsPatch(choice=choice), Settings), as_json)


def _identity(client: Client, asked: str | None) -> str:
    """The imported tunnel that lends its key. Fault if none is clear."""
    from engine.management.schema import RelayChoice, Settings, TunnelChoice

    names = _tunnels(client)
    if asked is not None:
        return _known("tunnel", asked, names)
    match client.call("settings.get", None, Settings).choice:
        case RelayChoice(identity=name) | TunnelChoice(name=name):
            return name
    if len(names) == 1:
        return names[0]
    raise Fault(
        f"choose whose key is used with --identity: {', '.join(names)}" if names
        else "no tunnel is imported whose key could be used: molehill tunnel import FILE", BAD_INPUT,
    )  # fmt: skip


def _known(what: str, word: str, known: Iterable[str]) -> str:
    """The word as the list has it, whatever its case. Fault with the nearest one if there is none, or more than one."""
    known = sorted(known)
    if word in known:
        return word
    alike = [each for each in known if each.casefold() == word.casefold()]
    if len(alike) != 1:
        raise Fault(f"there is no {what} {word!r}{did_you_mean(word, known)}", BAD_INPUT)
    return alike[0]


def _show(settings: Settings, as_json: bool) -> None:
    if as_json:
        echo_json({"choice": settings.choice})
    else:
        click.echo(_words(settings.choice))


def _words(choice: TunnelChoice | RelayChoice | None) -> str:
    from engine.management.schema import RelayChoice

    if choice is None:
        return "nothing is chosen yet: molehill tunnel import FILE"
    if not isinstance(choice, RelayChoice):
        return f"tunnel {choice.name}"
    where = " ".join(filter(None, (choice.country, choice.city, choice.hostname))) or "any"
    return f"relay {where} over IPv{choice.ip_version}, with the key of {choice.identity}"


@command.command("load")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@json_option
def load(file: Path, as_json: bool) -> None:
    """Replace the relay list by the one in the JSON file FILE.

    \b
    The form: {"version": 1, "relays": [{"hostname": "se-got-wg-001", "country": "se", "city": "Gothenburg",
      "public_key": "...", "ipv4": "198.51.100.7", "gateways": ["10.64.0.1"]}, ...]}; of a relay may be given, too:
      ipv6, port, weight, active, and bridges: [{"kind": "udp-over-tcp", "port": 443}]
    """
    import msgspec

    from engine.management.schema import RelayList

    try:
        with file.open("rb") as opened:
            data = opened.read(_MAX_LIST + 1)
        if len(data) > _MAX_LIST:
            raise Fault(f"{file}: it is longer than {_MAX_LIST >> 10} KiB", BAD_INPUT)
        relays = msgspec.json.decode(data, type=RelayList)
    except OSError as error:
        raise Fault(f"{file}: {error.strerror}", BAD_INPUT) from None
    except msgspec.MsgspecError as error:
        raise Fault(f"{file}: {error}", BAD_INPUT) from None
    loaded = ask("relay.load", relays, RelayList)
    if as_json:
        echo_json(loaded)
    else:
        click.echo(f"{len(loaded.relays)} relays")
