"""`molehill status`: what a running session says, for people or as JSON."""

from __future__ import annotations

import json
import time
from typing import Any

import click

from engine.cli import client

_COLOURS = {"connected": "green", "connecting": "yellow", "disconnecting": "yellow", "error": "red"}
_ENFORCERS = {
    "firewall": "the TUN and nftables (firewall mode)",
    "vpn-service": "the TUN alone (vpn-service mode; molehill run --firewall for both)",
}


@click.command("status")
@click.option("--interface", default=None, metavar="NAME", help="Which session, if there are several.")
@click.option("--json", "as_json", is_flag=True, help="As JSON: one object, with --watch one a line.")
@click.option("--watch", is_flag=True, help="Go on: show it again at every change.")
def command(interface: str | None, as_json: bool, watch: bool) -> None:
    """Show the state of the running session: since when, the policy, the peer, what was let through and dropped.

    The exit code is 0 when a session answers, 1 when none runs, and with --watch 1 when it ends.
    """
    for number, data in enumerate(client.ask(client.find(interface), "watch" if watch else "status")):
        if number and not as_json:
            click.echo()
        click.echo(json.dumps(data) if as_json else render(data))


def render(data: dict[str, Any]) -> str:
    """The status as text, some lines."""
    state = data["state"]
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(data["since"]))
    lines = [f"{click.style(state.upper(), fg=_COLOURS.get(state), bold=True)} since {since} ({data['interface']})"]
    if not data["enforced"]:
        warning = f"NOT ENFORCED, TRAFFIC MAY BE LEAKING: {data['failure']}"
        lines.append(click.style(warning, fg="red", bold=True))
    rows = [("policy", data["policy"]), ("enforced by", _ENFORCERS[data["mode"]])]
    if data["cause"]:
        rows.append(("cause", data["cause"]))
    if state == "connecting":
        rows.append(("attempt", f"{data['attempt'] + 1}" + (f", {data['problem']}" if data["problem"] else "")))
    if state == "connected":
        rows.append(("verified", f"by {data['verified_by']}"))
    if data["dns"]:
        rows.append(("dns", data["dns"]))
    for peer in data["peers"]:
        shaken = peer["last_handshake"]
        ago = f"{max(0, int(time.time() - shaken))} s ago" if shaken else "never"
        rows.append(("peer", f"{peer['public_key']} at {peer['endpoint'] or 'an unknown endpoint'}"))
        rows.append(("", f"received {size(peer['rx_bytes'])}, sent {size(peer['tx_bytes'])}, last handshake {ago}"))
    if data["verdicts"]:
        rows.append(("verdicts", ", ".join(f"{rule} {v['packets']}" for rule, v in data["verdicts"].items())))
    if data["drops"]:
        rows.append(("drops", ", ".join(f"{reason} {count}" for reason, count in data["drops"].items())))
    if data["offloads"]:
        used = [name for name, on in data["offloads"].items() if on]
        rows.append(("offloads", ", ".join(used) or "none"))
    if data["cannot_block"]:
        ids = ", ".join(gap["id"] for gap in data["cannot_block"])
        rows.append(("cannot block", f"{ids} (molehill profile show {data['profile']})"))
    lines += [f"  {name:13} {text}" for name, text in rows]
    return "\n".join(lines)


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
