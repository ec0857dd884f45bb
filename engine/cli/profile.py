"""`molehill profile list|show`: whose VPN service is modelled, and what it cannot block."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import click

from engine.cli.main import BAD_INPUT, Fault

if TYPE_CHECKING:
    from engine.service.profiles import Gap


@click.group("profile")
def command() -> None:
    """List the profiles of `molehill run --profile`, and what each cannot block."""


@command.command("list")
def list_() -> None:
    """List the profiles, one a line."""
    from engine.service.profiles import PROFILES

    for profile in PROFILES.values():
        click.echo(f"{profile.name:14}{profile.summary}")


@command.command()
@click.argument("name")
def show(name: str) -> None:
    """Show the profile NAME: what it is, and all that it cannot block."""
    from engine.policy import Platform
    from engine.service.profiles import PROFILES

    profile = PROFILES.get(name)
    if profile is None:
        raise Fault(f"there is no profile {name!r}: use one of {', '.join(PROFILES)}", BAD_INPUT)
    click.echo(f"{profile.name}: {profile.summary}")
    click.echo(f"rules of: {profile.platform}")
    click.echo("cannot block:")
    _tell(profile.cannot_block)
    if profile.platform is Platform.LINUX:
        click.echo("cannot block with --firewall:")
        _tell(profile.gaps(firewall=True))


def _tell(gaps: tuple[Gap, ...]) -> None:
    for gap in gaps:
        click.echo(textwrap.fill(gap.text, 78, initial_indent=f"  {gap.id}  ", subsequent_indent="         "))
