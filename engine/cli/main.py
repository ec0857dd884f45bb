"""The `molehill` command: one click group. Each command imports what it needs when it runs, so that help is quick.

Commands are known by name, in the sections that `molehill --help` shows; the module of one is imported when it is
asked for. Who mistypes a command is told the nearest one.
"""

from __future__ import annotations

import difflib
import errno
import importlib
import os
import sys
from typing import Any

import click

from engine import __version__

# Documented in `molehill --help`; tests hold every command to them.
OK, FAILED, BAD_INPUT, MISSING = 0, 1, 2, 3

_SECTIONS = {
    "The tunnel": {
        "connect": "engine.cli.connect:connect",
        "disconnect": "engine.cli.connect:disconnect",
        "reconnect": "engine.cli.connect:reconnect",
        "status": "engine.cli.status:command",
        "tui": "engine.cli.tui:command",
        "tunnel": "engine.cli.tunnel:command",
        "relay": "engine.cli.relay:command",
    },
    "Settings": {
        "lan": "engine.cli.preferences:lan",
        "dns": "engine.cli.preferences:dns",
        "lockdown": "engine.cli.preferences:lockdown",
        "auto-connect": "engine.cli.preferences:auto_connect",
        "bridge": "engine.cli.bridge:command",
        "mtu": "engine.cli.preferences:mtu",
        "api": "engine.cli.preferences:api",
        "reset-settings": "engine.cli.preferences:reset",
    },
    "When something is wrong": {
        "log": "engine.cli.log:command",
        "problem-report": "engine.cli.problem_report:command",
        "debug": "engine.cli.debug:command",
        "unblock": "engine.cli.unblock:command",
    },
    "The policy": {
        "explain": "engine.cli.explain:command",
        "audit": "engine.cli.audit:command",
        "policy": "engine.cli.policy:command",
        "profile": "engine.cli.profile:command",
        "leaklab": "engine.cli.leaklab:command",
    },
    "Other": {
        "run": "engine.cli.run:command",
        "daemon": "engine.cli.daemon:command",
        "service": "engine.cli.service:command",
        "bridge-relay": "engine.cli.bridge_relay:command",
        "completion": "engine.cli.completion:command",
        "version": "engine.cli.version:command",
    },
}
_COMMANDS = {name: place for section in _SECTIONS.values() for name, place in section.items()}

HELP = """A WireGuard tunnel that judges every packet and fails closed.

The service does the work, these commands tell it what to do: sudo systemctl start molehill.

\b
Examples:
  molehill tunnel import se1.conf        an ordinary WireGuard file; the first one is chosen
  molehill connect --wait                from here on nothing leaves but through the tunnel
  molehill status                        what is going on, and what is blocked
  molehill status --json | jq .state     the same for programs
  molehill tui                           the same live, on one screen
  molehill lan set allow                 printers and the like stay reachable
  molehill disconnect                    the one thing that opens the kill switch
  molehill problem-report show           what you would send, without what identifies you

\b
Without the service, and to understand it:
  sudo molehill run wg0.conf             connect, in the foreground; Ctrl-C disconnects
  molehill profile show linux            what cannot be blocked, honestly
  molehill explain --help                what becomes of a packet, and by which rule
  molehill policy diff connecting connected
  sudo molehill unblock                  open again what a killed run left blocked

\b
Exit codes:
  0  all well
  1  it failed while running, or nobody answers
  2  bad input: a file, an option, a name
  3  a privilege or a kernel feature is missing
With --json, too, what is wrong is a sentence on standard error.

\b
Shell completion, also for zsh and fish:
  eval "$(molehill completion bash)"
"""


class Fault(click.ClickException):
    """An end with one sentence for the user and an exit code."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # the base class declares it as its own

    def show(self, file: Any = None) -> None:
        """Print the sentence on standard error."""
        click.secho(f"molehill: {self.format_message()}", err=True, fg="red")


class Group(click.Group):
    """A group that knows what a mistyped command was meant to be."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that the first word names. UsageError with the nearest one if there is none."""
        word = args[0]
        if not ctx.resilient_parsing and not word.startswith("-") and self.get_command(ctx, word) is None:
            raise click.UsageError(f"No such command {word!r}{did_you_mean(word, self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


class _LazyGroup(Group):
    """Knows its commands by name; imports one when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name].split(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in their sections, all in one column."""
        width = max(map(len, _COMMANDS))
        for section, names in _SECTIONS.items():
            with formatter.section(section):
                commands = {name: self.get_command(ctx, name) for name in names}
                formatter.write_dl(
                    [(f"{name:{width}}", it.get_short_help_str(formatter.width - width - 6))
                     for name, it in commands.items() if it is not None]
                )  # fmt: skip


def did_you_mean(word: str, known: list[str]) -> str:
    """ ": did you mean ...?" for the known word nearest to this one, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {near[0]}?" if near else ""


@click.version_option(__version__, message="%(prog)s %(version)s")
@click.command(cls=_LazyGroup, help=HELP, context_settings={"help_option_names": ["-h", "--help"]})
def molehill() -> None:
    """Hold the commands; nothing is common to them."""


def main() -> None:
    """Console entry point."""
    try:
        molehill(prog_name="molehill")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        Fault(f"{error.filename or 'the output'} cannot be written: {error.strerror}").show()
        os._exit(FAILED)  # what is left in the buffer cannot be written either
    except ImportError as error:
        if "MOLEHILL_AEAD" not in str(error):
            raise
        Fault(str(error), BAD_INPUT).show()
        sys.exit(BAD_INPUT)


if __name__ == "__main__":
    main()
