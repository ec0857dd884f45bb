"""`molehill problem-report collect|show|send`: what goes wrong, for those who can mend it, after you have seen it.

This is the one part of molehill that ever talks to the API, and only when it is told to (UI-1).
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click

from engine.cli.main import BAD_INPUT, FAILED, Fault, Group
from engine.cli.management import ask, echo_json, json_option

_MAX_REPORT = 1 << 20  # bytes


@click.group("problem-report", cls=Group)
def command() -> None:
    """Collect a problem report, show it, send it if you like.

    It has: the versions of molehill and the system, what of the kernel is there, the settings and the status, the last
    128 KiB of the service's log, our firewall table, rules and routes. Replaced by words in brackets are: keys,
    passwords, IP addresses (but 127.0.0.1 and ::1), hardware addresses, UUIDs, 16-digit numbers, home folders, the name
    of this machine.

    \b
    Examples:
      molehill problem-report show                       what would be in it; nothing is written
      sudo molehill problem-report collect report.txt    root sees the firewall, too
      sudo molehill problem-report send report.txt       shows it, asks, sends it to the API
    """


@command.command("show")
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@json_option
def show(file: Path | None, as_json: bool) -> None:
    """Show the report in FILE, or what a new one would have."""
    from engine.report.collect import collect

    text = collect() if file is None else _read(file)
    if as_json:
        echo_json({"report": text})
    elif sys.stdout.isatty():
        click.echo_via_pager(text)
    else:
        click.echo(text, nl=False)


@command.command("collect")
@click.argument("file", required=False, metavar="[FILE]", type=click.Path(path_type=Path))
@json_option
def collect_(file: Path | None, as_json: bool) -> None:
    """Collect a report into FILE, which only you may read. Default: molehill-report-TIME.txt here.

    A file that is there already is not written over.
    """
    from engine.report.collect import collect

    path = file or Path(time.strftime("molehill-report-%Y%m%d-%H%M%S.txt"))
    text = collect()
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "w", encoding="utf-8") as opened:
            opened.write(text)
    except FileExistsError:
        raise Fault(f"{path} is there already: choose another name", BAD_INPUT) from None
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    if as_json:
        echo_json({"file": str(path), "bytes": len(text.encode())})
    else:
        click.echo(f"{path}: look at it with molehill problem-report show {path}")


@command.command("send")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@click.option("--name", metavar="NAME", help="The name in the API's certificate. Default: the endpoint's address.")
@click.option("--authority", type=click.Path(path_type=Path), metavar="FILE",
              help="Trust only these certificates (PEM). Default: the system's.")  # fmt: skip
@json_option
def send_(file: Path, yes: bool, name: str | None, authority: Path | None, as_json: bool) -> None:
    """Show the report in FILE, ask, and send it to the API over TLS 1.3.

    There is no API unless you set one: molehill api set. While molehill blocks, only root reaches it; while connected
    it is reached inside the tunnel.

    \b
    Example:
      sudo molehill problem-report send report.txt --name api.example.net
    """
    from engine.management.schema import Settings, Status
    from engine.report.send import Endpoint, SendError, send

    text = _read(file)
    api = ask("settings.get", None, Settings).api
    if api is None:
        raise Fault("no API is set, so there is nowhere to send to: molehill api set IP:PORT/tcp", FAILED)
    click.echo(text, nl=False, err=as_json)
    question = f"Send these {len(text.encode())} bytes to {api}?"
    if not yes and not click.confirm(question, err=True):
        raise Fault("not sent")
    try:
        send(text, Endpoint.parse(api), name=name, authority=authority)
    except SendError as error:
        status = ask("status", None, Status)
        if error.unreachable and os.geteuid() != 0 and status.blocks and status.state != "connected":
            raise Fault(f"{error}; while molehill blocks, only root reaches the API (API-1): use sudo") from None
        raise Fault(str(error)) from None
    if as_json:
        echo_json({"sent": len(text.encode()), "to": api})
    else:
        click.echo("sent", err=True)


def _read(path: Path) -> str:
    """A report as it would be sent: redacted again, for it may have been edited. Fault if it is no report."""
    from engine.report.collect import TITLE, redacted

    try:
        with path.open("rb") as opened:
            data = opened.read(_MAX_REPORT + 1)
    except OSError as error:
        raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    text = data.decode(errors="replace")
    if not text.startswith(f"{TITLE}\n"):
        raise Fault(f"{path} is no problem report: its first line is not {TITLE!r}", BAD_INPUT)
    if len(data) > _MAX_REPORT:
        raise Fault(f"{path}: it is longer than {_MAX_REPORT >> 20} MiB", BAD_INPUT)
    return redacted(text)
