"""`molehill version`."""

from __future__ import annotations

import platform
import sys

import click

from engine import __version__


@click.command("version")
def command() -> None:
    """Show the version, Python's and the kernel's."""
    click.echo(f"molehill {__version__}, Python {sys.version.split()[0]}, {platform.system()} {platform.release()}")
