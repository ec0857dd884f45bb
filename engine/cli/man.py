"""The manual page, made from the commands themselves: `python -m engine.cli.man > docs/molehill.1`.

roff with the man macros: .SH section, .SS command, .TP option, .nf/.fi for examples as they stand.
"""

from __future__ import annotations

import inspect

import click

from engine.cli.main import molehill


def _text(text: str) -> str:
    """Prose in roff: backslashes and leading dots mean nothing there, \\b blocks are kept line by line."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        kept = paragraph.startswith("\b")
        body = paragraph.removeprefix("\b\n").replace("\\", "\\e").replace("-", "\\-")
        rows = [f"\\&{row}" if row.startswith((".", "'")) else row for row in body.split("\n")]
        lines += [".PP", ".nf", *rows, ".fi"] if kept else [".PP", " ".join(row.strip() for row in rows)]
    return "\n".join(lines)


def _options(command: click.Command, ctx: click.Context) -> list[str]:
    lines = []
    for parameter in command.get_params(ctx):
        record = parameter.get_help_record(ctx)
        if record is not None:
            names = record[0].replace("-", "\\-")
            lines += [".TP", f"\\fB{names}\\fR", record[1].replace("-", "\\-")]
    return lines


def _command(command: click.Command, parent: click.Context) -> list[str]:
    ctx = click.Context(command, info_name=command.name, parent=parent)
    usage = command.get_usage(ctx).removeprefix("Usage: ").replace("-", "\\-")
    lines = [f".SS {usage}", _text(inspect.cleandoc(command.help or "")), *_options(command, ctx)]
    if isinstance(command, click.Group):
        for name in command.list_commands(ctx):
            below = command.get_command(ctx, name)
            assert below is not None
            lines += _command(below, ctx)
    return lines


def page() -> str:
    """The whole page."""
    ctx = click.Context(molehill, info_name="molehill", **molehill.context_settings)
    lines = [
        '.TH MOLEHILL 1 "" "molehill" "User Commands"',
        ".SH NAME",
        "molehill \\- a WireGuard tunnel that judges every packet and fails closed",
        ".SH SYNOPSIS",
        "\\fBmolehill\\fR COMMAND [\\fIOPTIONS\\fR]",
        ".SH DESCRIPTION",
        _text(inspect.cleandoc(molehill.help or "")),
        ".SH COMMANDS",
    ]
    for name in molehill.list_commands(ctx):
        command = molehill.get_command(ctx, name)
        assert command is not None
        lines += _command(command, ctx)
    lines += [
        ".SH FILES",
        ".TP",
        "/var/lib/molehill",
        "settings, tunnels with their keys, and relays of the daemon; for root alone",
        ".TP",
        "/run/molehill/management.socket",
        "the daemon's socket: JSON\\-RPC 2.0, one message a line",
        ".TP",
        "/run/molehill/INTERFACE.sock",
        "the status socket of a session of molehill run: the same, methods status and watch",
        ".SH SEE ALSO",
        "wg(8), wg\\-quick(8)",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    click.echo(page(), nl=False)
