"""`molehill connect|disconnect|reconnect [--wait]`: what the user wants of the tunnel.

With --wait, in this order: the command, then `subscribe`, whose answer is the state as it is by then; events from
there on until the wanted state or Error. No event can be older than the command, so none is taken for its result.
"""

from __future__ import annotations

import math
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import Fault
from engine.cli.management import daemon, echo_json, json_option

if TYPE_CHECKING:
    from engine.management.client import Client
    from engine.management.schema import Status

_ENDS = ("error", "disconnected")  # of a wait, whatever was waited for


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Wait until it has come to an end: the state that was asked for, or an error."
    command = json_option(command)
    command = click.option(
        "--timeout", type=click.FloatRange(min=0.1), metavar="SECONDS", help="With --wait: wait no longer than this."
    )(command)
    return click.option("--wait", "-w", is_flag=True, help=text)(command)


@click.command("connect")
@_options
def connect(wait: bool, timeout: float | None, as_json: bool) -> None:
    """Connect, by the tunnel or relay that is chosen. Connected already: nothing changes.

    From now on, and until molehill disconnect, no packet leaves but as the state permits.

    \b
    Examples:
      molehill connect --wait
      molehill connect --wait --timeout 10 && curl https://example.com
      molehill connect --wait --json | jq -r .connecting_to

    With --wait the exit code is 0 when connected, 1 with the cause when that ends in an error or takes longer than
    the timeout. The daemon goes on trying in both cases, and blocks meanwhile.
    """
    _change("connect", "connected", wait, timeout, as_json)


@click.command("disconnect")
@_options
def disconnect(wait: bool, timeout: float | None, as_json: bool) -> None:
    """Disconnect, the one thing that opens the kill switch.

    With lockdown on it does not: everything stays blocked, and nothing goes through the tunnel either.

    \b
    Example:
      molehill disconnect --wait
    """
    _change("disconnect", "disconnected", wait, timeout, as_json)


@click.command("reconnect")
@_options
def reconnect(wait: bool, timeout: float | None, as_json: bool) -> None:
    """Connect anew, perhaps to another relay; nothing opens.

    While disconnected this is an error.

    \b
    Example:
      molehill relay set location se && molehill reconnect --wait
    """
    _change("reconnect", "connected", wait, timeout, as_json)


def _change(method: str, goal: str, wait: bool, timeout: float | None, as_json: bool) -> None:
    from engine.cli.status import one_line
    from engine.management.schema import Status

    if timeout is not None and not wait:
        raise click.UsageError("--timeout belongs to --wait")
    if timeout is not None and not math.isfinite(timeout):
        raise click.UsageError("--timeout is a number of seconds")
    with daemon() as client:
        status = client.call(method, None, Status)
        if wait:
            status = _wait(client, goal, timeout)
    if as_json:
        echo_json(status)
    if not status.enforced:
        raise Fault(f"NOT ENFORCED, TRAFFIC MAY BE LEAKING: {status.failure}")
    if timeout is not None and status.state not in (goal, *_ENDS):
        raise Fault(f"not {goal} after {timeout:g} s: {one_line(status)}")
    if status.state == "error" or (wait and status.state != goal):
        raise Fault(one_line(status))
    if not as_json:
        click.echo(one_line(status))


def _wait(client: Client, goal: str, timeout: float | None) -> Status:
    """The status that ends the wait: the goal, Error, Disconnected by somebody else; or the one at the timeout."""
    from engine.cli.status import one_line
    from engine.management.schema import Status, StatusEvent, Subscribe

    deadline = None if timeout is None else time.monotonic() + timeout
    status = client.call("subscribe", Subscribe(), Status)
    progress = _Progress()
    try:
        while status.state not in (goal, *_ENDS):
            progress.show(one_line(status))
            left = None if deadline is None else max(0.001, deadline - time.monotonic())
            event = next(client.events(left), None)
            if event is None:
                break
            if isinstance(event, StatusEvent):
                status = event.status
    finally:
        progress.clear()
    return status


class _Progress:
    """A line on a terminal's standard error that is written over; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = ""
        self._terminal = sys.stderr.isatty()

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._terminal and text != self._shown:
            self.clear()
            width = shutil.get_terminal_size().columns - len(" ...") - 1
            click.secho(f"{text[:width]} ...", err=True, nl=False, fg="yellow")
            self._shown = text

    def clear(self) -> None:
        """Remove the line."""
        if self._shown:
            click.echo("\r\x1b[K", err=True, nl=False)
            self._shown = ""
