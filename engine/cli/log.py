"""`molehill log`: the daemon's newest lines, and what comes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from engine.cli.management import daemon, echo_json

if TYPE_CHECKING:
    from engine.management.schema import LogEvent

_COLOURS = {"warning": "yellow", "error": "red", "critical": "red"}


@click.command("log")
@click.option("--lines", "-n", type=click.IntRange(min=0), default=100, show_default=True, help="How many.")
@click.option("--follow", "-f", is_flag=True, help="Go on, and show what comes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def command(lines: int, follow: bool, as_json: bool) -> None:
    """Show the newest lines of the daemon's log. It has no keys and no passwords, but addresses.

    \b
    Examples:
      molehill log -n 20
      molehill log --follow --json | jq -r .text
    """
    from engine.management.schema import Lines, Log, LogEvent, Status, Subscribe

    with daemon() as client:
        if follow:
            client.call("subscribe", Subscribe(log=True), Status)
        newest = client.call("log", Lines(lines), Log).lines
        for line in newest:
            _show(line, as_json)
        shown = set(newest)  # a line that comes between the two calls is told by both
        while follow:
            for event in client.events():
                if isinstance(event, LogEvent) and event not in shown:
                    _show(event, as_json)


def _show(line: LogEvent, as_json: bool) -> None:
    if as_json:
        echo_json(line)
        return
    at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(line.at))
    level = click.style(f"{line.level:8}", fg=_COLOURS.get(line.level.lower()))
    click.echo(f"{at}.{int(line.at % 1 * 1000):03} {level} {line.text}")
