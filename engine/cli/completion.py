"""`molehill completion SHELL`: the script that lets a shell complete our commands."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

_VARIABLE = "_MOLEHILL_COMPLETE"  # the script sets it when it asks; click's name for a command called molehill


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for SHELL.

    Tunnels and relays are completed by asking the daemon.

    \b
    Examples:
      eval "$(molehill completion bash)"                                  now
      molehill completion bash > /etc/bash_completion.d/molehill          for everybody
      molehill completion zsh > "${fpath[1]}/_molehill"
      molehill completion fish > ~/.config/fish/completions/molehill.fish
    """
    shell_complete = get_completion_class(shell)
    assert shell_complete is not None
    click.echo(shell_complete(ctx.find_root().command, {}, "molehill", _VARIABLE).source())
