"""`molehill debug block`: go to Error on purpose."""

from __future__ import annotations

import click

from engine.cli.main import Group
from engine.cli.management import ask, echo_json, json_option


@click.group("debug", cls=Group)
def command() -> None:
    """Try out what seldom happens by itself."""


@command.command("block")
@click.argument("detail", default="")
@json_option
def block(detail: str, as_json: bool) -> None:
    """Go to Error, which blocks everything, as a real error would; DETAIL is told as its cause.

    While disconnected nothing happens. molehill connect or disconnect leaves it.

    \b
    Example:
      molehill debug block 'to see what is reachable then'
    """
    from engine.cli.status import one_line
    from engine.management.schema import Detail, Status

    status = ask("debug.block", Detail(detail), Status)
    if as_json:
        echo_json(status)
    else:
        click.echo(one_line(status))
