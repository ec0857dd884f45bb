"""The `molehill` command: one click group. Each command imports what it needs when it runs, so that help is quick."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from engine import __version__

# Documented in `molehill --help`; tests hold every command to them.
OK, FAILED, BAD_INPUT, MISSING = 0, 1, 2, 3

_COMMANDS = {
    "run": "engine.cli.run",
    "status": "engine.cli.status",
    "profile": "engine.cli.profile",
    "unblock": "engine.cli.unblock",
    "explain": "engine.cli.explain",
    "audit": "engine.cli.audit",
    "policy": "engine.cli.policy",
    "bridge-relay": "engine.cli.bridge_relay",
    "version": "engine.cli.version",
}

HELP = """A WireGuard tunnel that judges every packet and fails closed.

\b
Examples:
  sudo molehill run wg0.conf             connect, in the foreground; Ctrl-C disconnects
  sudo molehill run wg0.conf --allow-lan printers and the like stay reachable
  molehill status                        what is going on, and what is blocked
  molehill status --json | jq .state     the same for programs
  molehill profile show linux            what cannot be blocked, honestly
  molehill explain --help                what becomes of a packet, and by which rule
  molehill audit eth0.pcapng --state connected --local 192.168.1.5
  molehill policy diff connecting connected
  sudo molehill unblock                  open again what a killed run left blocked

\b
Exit codes:
  0  all well
  1  it failed while running
  2  bad input: a file, an option, a name
  3  a privilege or a kernel feature is missing

\b
Shell completion (bash; zsh and fish alike):
  eval "$(_MOLEHILL_COMPLETE=bash_source molehill)"
"""


class Fault(click.ClickException):
    """An end with one sentence for the user and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # the base class declares it as its own

    def show(self, file: Any = None) -> None:
        """Print the sentence on standard error."""
        click.secho(f"molehill: {self.format_message()}", err=True, fg="red")


class _LazyGroup(click.Group):
    """Knows its commands by name; imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(_COMMANDS[cmd_name]).command
        assert isinstance(command, click.Command)
        return command


@click.version_option(__version__, message="%(prog)s %(version)s")
@click.command(cls=_LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
def molehill() -> None:
    """Hold the commands; nothing is common to them."""


def main() -> None:
    """Console entry point."""
    try:
        molehill(prog_name="molehill")
    except ImportError as error:
        if "MOLEHILL_AEAD" not in str(error):
            raise
        Fault(str(error), BAD_INPUT).show()
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
