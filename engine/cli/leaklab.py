"""`molehill leaklab`: try to make molehill leak, in a world of network namespaces, and tell what was seen."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from engine import __version__
from engine.cli.main import BAD_INPUT, FAILED, MISSING, OK, Fault


@click.command("leaklab")
@click.option("--list", "listing", is_flag=True, help="List the tests and end.")
@click.option("--only", multiple=True, metavar="NAME", help="Run only these tests or groups; * stands for anything. "
              "May be repeated.")  # fmt: skip
@click.option("--short", is_flag=True, help="A choice of tests, in about a minute.")
@click.option("--driver", type=click.Choice(["daemon", "run"]), default="daemon", show_default=True,
              help="What is tested: molehill daemon, or molehill run.")  # fmt: skip
@click.option("--mode", type=click.Choice(["firewall", "vpn-service"]), default="firewall", show_default=True,
              help="What enforces: the TUN and nftables, or the TUN alone.")  # fmt: skip
@click.option("--transitions", type=click.IntRange(min=2), metavar="COUNT", help="How many random transitions. "
              "Default: 10000.")  # fmt: skip
@click.option("--seed", type=int, help="Of the random transitions.")
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the table as JSON.")  # fmt: skip
@click.option("--html", "html_file", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Write the table as a web page.")  # fmt: skip
def command(
    listing: bool,
    only: tuple[str, ...],
    short: bool,
    driver: str,
    mode: str,
    transitions: int | None,
    seed: int | None,
    json_file: Path | None,
    html_file: Path | None,
) -> None:
    """Try to make molehill leak: every kind of packet in every state, attacks, faults, thousands of transitions.

    It runs a second molehill in network namespaces of its own, with a provider, relays and hostile neighbours, and
    looks at every packet that leaves it. The machine's own molehill, network and settings are not touched. The whole
    takes about a quarter of an hour.

    \b
    Examples:
      sudo molehill leaklab --short
      sudo molehill leaklab --html leaklab.html
      sudo molehill leaklab --only faults --only "rogue*"
      sudo molehill leaklab --short --mode vpn-service    what the TUN alone cannot stop

    The exit code is 0 if every packet was where it should be, or is explained in docs/known-issues.md.
    """
    from engine.leaklab import report, run
    from engine.leaklab.rights import why_not

    if listing:
        for group, name, states in run.names():
            click.echo(f"{group:12} {name:58} {states}")
        return
    if missing := why_not("nft", "nsenter", "setpriv"):
        raise Fault(f"the leak lab needs network namespaces, and {missing}: use sudo", MISSING)
    if os.geteuid() != 0:
        raise Fault("the leak lab needs to be root: use sudo", MISSING)
    defaults = run.Options()
    options = run.Options(
        driver=driver,
        firewall=mode == "firewall",
        only=only,
        short=short,
        count=transitions or defaults.count,
        seed=defaults.seed if seed is None else seed,
    )
    if not run.chosen(options):
        raise Fault(f"no test is called {' or '.join(only)}: molehill leaklab --list", BAD_INPUT)
    table = run.run(options, __version__, lambda line: click.echo(line, err=True))
    click.echo(report.text(table))
    for path, write in ((json_file, report.write_json), (html_file, report.write_html)):
        if path is not None:
            try:
                write(table, path)
            except OSError as error:
                raise Fault(f"{path}: {error.strerror}", BAD_INPUT) from None
    sys.exit(OK if table.good else FAILED)
