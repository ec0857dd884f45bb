"""`molehill profile list|show`: whose VPN service is modelled, and what it cannot block."""

from __future__ import annotations

import textwrap

import click

from engine.cli.main import BAD_INPUT, Fault


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
    from engine.service.profiles import PROFILES

    profile = PROFILES.get(name)
    if profile is None:
        raise Fault(f"there is no profile {name!r}: use one of {', '.join(PROFILES)}", BAD_INPUT)
    click.echo(f"{profile.name}: {profile.summary}")
    click.echo(f"rules of: {profile.platform}")
    click.echo("cannot block:")
    for gap in profile.cannot_block:
        click.echo(textwrap.fill(gap.text, 78, initial_indent=f"  {gap.id}  ", subsequent_indent="         "))
