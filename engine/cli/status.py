"""`molehill status [listen]`: what the daemon says, or else a session of `molehill run`, for people or as JSON."""

from __future__ import annotations

import json
import textwrap
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from engine.cli import client
from engine.cli.management import as_fault

if TYPE_CHECKING:
    from engine.management.schema import Status

_COLOURS = {"connected": "green", "connecting": "yellow", "disconnecting": "yellow", "error": "red"}
_ENFORCERS = {
    "firewall": "the TUN and nftables (firewall mode)",
    "vpn-service": "the TUN alone (vpn-service mode: molehill profile show linux)",
}


@click.command("status")
@click.argument("listen", type=click.Choice(["listen"]), required=False)
@click.option("--interface", default=None, metavar="NAME", help="The session of molehill run on this interface.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: one object, with listen one a line.")
@click.option("--verbose", "-v", is_flag=True, help="Counters, offloads, and what cannot be blocked, too.")
def command(listen: str | None, interface: str | None, as_json: bool, verbose: bool) -> None:
    """Show the state of the tunnel.

    Since when, the policy, the peer, and what is wrong. The daemon is asked; where none runs, a session of molehill run
    in this network namespace. With listen, go on and show it again at every change.

    \b
    Examples:
      molehill status -v
      molehill status listen
      molehill status --json | jq -r .state
      molehill status --interface wg0        a session of molehill run, if there are several

    The exit code is 0 when somebody answers, 1 when nobody does, and with listen 1 when the answers end.
    """
    for number, data in enumerate(_answers(interface, bool(listen))):
        if number and not as_json:
            click.echo()
        click.echo(json.dumps(data) if as_json else render(data, verbose=verbose))


def _answers(interface: str | None, listen: bool) -> Iterator[dict[str, Any]]:
    """The status now and, to a listener, at every change."""
    if interface is None:
        import msgspec

        from engine.management.client import Client, ManagementError, NotRunning
        from engine.management.schema import Status, StatusEvent, Subscribe

        try:
            with Client() as daemon:
                method, params = ("subscribe", Subscribe()) if listen else ("status", None)
                yield msgspec.to_builtins(daemon.call(method, params, Status))
                while listen:
                    for event in daemon.events():
                        if isinstance(event, StatusEvent):
                            yield msgspec.to_builtins(event.status)
                return
        except NotRunning:
            pass
        except ManagementError as error:
            raise as_fault(error) from None
    yield from client.ask(client.find(interface), "watch" if listen else "status")


def one_line(status: Status) -> str:
    """The daemon's status in a few words."""
    words = status.state
    to = status.connecting_to or status.endpoint
    if to and status.state in ("connecting", "connected"):
        words += f" to {to}"
        if status.endpoint and status.endpoint != to:
            words += f" at {status.endpoint}"
        if status.bridge:
            words += f" by way of {status.bridge}"
    if status.state == "connecting":
        words += f", attempt {status.attempt + 1}" if status.attempt else ""
        words += f", {status.problem}" if status.problem else ""
    if status.state == "error":
        words += f": {status.cause}"
    if status.state == "disconnected" and status.blocks:
        words += ", and everything stays blocked: lockdown is on" if status.always_require_vpn else ", still blocked"
    return words


def render(data: dict[str, Any], *, verbose: bool = False) -> str:
    """The status as text, some lines."""
    state = data["state"]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(data["since"]))
    on = f" ({data['interface']})" if data["interface"] else ""
    lines = [f"{click.style(state.upper(), fg=_COLOURS.get(state), bold=True)} since {since}{on}"]
    if not data["enforced"]:
        warning = f"NOT ENFORCED, TRAFFIC MAY BE LEAKING: {data['failure']}"
        lines.append(click.style(warning, fg="red", bold=True))
    rows = [("notice", notice) for notice in data.get("notices", ())]
    rows.append(("policy", data["policy"]))
    enforcing = data.get("blocks", True)
    if enforcing:
        rows.append(("enforced by", _ENFORCERS.get(data["mode"], data["mode"])))
    if data["cause"]:
        rows.append(("cause", data["cause"]))
    if state == "error" and "connecting_to" in data:  # the daemon's; molehill run has one way out, Ctrl-C
        rows.append(("what now", _what_now(data)))
    if state == "connecting":
        rows.append(("attempt", f"{data['attempt'] + 1}" + (f", {data['problem']}" if data["problem"] else "")))
    if data.get("connecting_to"):
        rows.append(("server", data["connecting_to"] + (f" at {data['endpoint']}" if data["endpoint"] else "")))
    if data.get("bridge"):
        rows.append(("bridge", data["bridge"]))
    if state == "connected":
        rows.append(("verified", f"by {data['verified_by']}"))
    if data["dns"]:
        rows.append(("dns", data["dns"]))
    for peer in data["peers"]:
        shaken = peer["last_handshake"]
        ago = f"{max(0, int(time.time() - shaken))} s ago" if shaken else "never"
        rows.append(("peer", f"{peer['public_key']} at {peer['endpoint'] or 'an unknown endpoint'}"))
        rows.append(("", f"received {size(peer['rx_bytes'])}, sent {size(peer['tx_bytes'])}, last handshake {ago}"))
    if data["cannot_block"] and enforcing:
        rows += _gaps(data, verbose)
    if verbose:
        rows += _counters(data)
    lines += [f"  {name:13} {text}" for name, text in rows]
    return "\n".join(lines)


def _what_now(data: dict[str, Any]) -> str:
    if data["cause_kind"] == "offline":
        return "it connects by itself once the machine is online; molehill disconnect gives up"
    opens = ", and blocks on: lockdown is on" if data["always_require_vpn"] else " and opens"
    return f"molehill connect tries again, molehill disconnect gives up{opens}"


def _gaps(data: dict[str, Any], verbose: bool) -> list[tuple[str, str]]:
    """What this mode cannot block: the ids, or each with its sentence."""
    gaps = data["cannot_block"]
    if verbose:
        told = (textwrap.fill(f"{gap['id']}: {gap['text']}", 100, subsequent_indent=" " * 16) for gap in gaps)
        return [("" if number else "cannot block", text) for number, text in enumerate(told)]
    return [("cannot block", f"{', '.join(gap['id'] for gap in gaps)} (molehill profile show {data['profile']})")]


def _counters(data: dict[str, Any]) -> list[tuple[str, str]]:
    rows = [("mtu", str(data["mtu"]))] if data["mtu"] else []
    if data["verdicts"]:
        rows.append(("verdicts", ", ".join(f"{rule} {v['packets']}" for rule, v in data["verdicts"].items())))
    if data["drops"]:
        rows.append(("drops", ", ".join(f"{reason} {count}" for reason, count in data["drops"].items())))
    if dropped := data.get("firewall_drops"):
        told = ", ".join(f"{drop['rule']} {drop['direction']} {drop['packets']}" for drop in dropped)
        rows.append(("by nftables", told))
    if data["offloads"]:
        used = [name for name, on in data["offloads"].items() if on]
        rows.append(("offloads", ", ".join(used) or "none"))
    return rows


def size(count: int) -> str:
    """Bytes in binary units, as `wg show` writes them."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= 1024
        if value < 1024:
            return f"{value:.2f} {unit}"
    return f"{value / 1024:.2f} TiB"
