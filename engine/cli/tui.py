"""`molehill tui`: the daemon on one screen, in a terminal."""

from __future__ import annotations

import sys

import click

from engine.cli.main import BAD_INPUT, MISSING, Fault


@click.command("tui")
@click.option("--light", is_flag=True, help="Dark on light; Ctrl+T changes it any time.")
def command(light: bool) -> None:
    """Show the daemon on one screen: the state, what is dropped and why, settings and events, all by keys.

    It needs a terminal of 80 by 24 or more, and no mouse. Leaving it leaves the tunnel as it is. NO_COLOR is followed.

    \b
    Examples:
      molehill tui
      NO_COLOR=1 molehill tui
    """
    try:
        from engine.tui.app import MolehillApp
    except ModuleNotFoundError as error:
        if error.name != "textual":
            raise
        raise Fault("the terminal interface needs Textual: pip install 'molehill[tui]'", MISSING) from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Fault("molehill tui needs a terminal: molehill status --json is for programs", BAD_INPUT)
    MolehillApp(light=light).run()
