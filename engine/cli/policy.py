"""`molehill policy show|diff`: the rules of a state, and what a change of state opens and closes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from engine.cli.main import BAD_INPUT, Fault
from engine.cli.settings import chosen, policy_from, state_option, with_settings

if TYPE_CHECKING:
    from engine.explain.difference import Change
    from engine.policy import Policy

_PLATFORMS = {"nftables": "linux", "pf": "macos", "wfp": "windows"}


@click.group("policy")
def command() -> None:
    """Show the rules of a state, and compare two states."""


@command.command("show")
@state_option
@with_settings
@click.option(
    "--backend", type=click.Choice(["native", "nftables", "pf", "wfp"]), help="What this enforcer is given instead."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def show(backend: str | None, as_json: bool, **settings: Any) -> None:
    """Show the rules of a state in their order: the first that matches decides.

    With --backend, show what that enforcer is given: the native program, the nftables document, the text for pfctl,
    the filters for Windows. PF and WFP mean --platform macos and windows.

    \b
    Examples:
      molehill policy show --state connected --gateway 10.64.0.1 --allow-lan
      molehill policy show --state error --backend nftables --json | sudo nft -c -j -f -
      molehill policy show --state connecting --peer 198.51.100.7:51820/udp --backend pf
    """
    if backend in _PLATFORMS and not settings["platform"]:
        settings["platform"] = (_PLATFORMS[backend],)
    policy = policy_from(settings)
    if backend is None:
        click.echo(json.dumps(_object(policy), indent=1) if as_json else _table(policy))
        return
    from engine.explain.judge import NOT_LOADED

    try:
        click.echo(_artefact(policy, backend, as_json))
    except ValueError as error:
        raise Fault(str(error), BAD_INPUT) from None
    if backend in NOT_LOADED:
        click.secho(f"molehill: {NOT_LOADED[backend]}", err=True, fg="yellow")


@command.command("diff")
@click.argument("before", metavar="A")
@click.argument("after", metavar="B")
@with_settings
@click.option("--json", "as_json", is_flag=True, help="One JSON object a change, one a line.")
def diff(before: str, after: str, as_json: bool, **settings: Any) -> None:
    """Tell what a change from A to B opens and what it closes, with a packet as an example of each.

    A and B are each a state, or a state and settings in quotes: the options' names without dashes. Options are
    settings of both.

    \b
    Examples:
      molehill policy diff connecting connected --peer 198.51.100.7:51820/udp
      molehill policy diff connected 'connected allow-lan'
      molehill policy diff 'connected dns=9.9.9.9' 'connected dns=192.168.1.53 dns=1.1.1.1' --gateway 10.64.0.1
      molehill policy diff disconnected 'disconnected always-require-vpn'

    The comparison is exact: what is not listed does not change.
    """
    from engine.explain.difference import difference
    from engine.explain.settings import parse_settings

    policies = []
    for name, text in (("A", before), ("B", after)):
        try:
            policies.append(parse_settings(text, chosen(settings)))
        except ValueError as error:
            raise Fault(f"{name}: {error}", BAD_INPUT) from None
    changes = difference(*policies)
    if as_json:
        for change in changes:
            click.echo(json.dumps(_change(change)))
        return
    click.echo(f"A: {policies[0].describe()}\nB: {policies[1].describe()}")
    for opens, title, colour in ((True, "opens", "yellow"), (False, "closes", "green")):
        click.echo(f"\n{click.style(title, fg=colour, bold=True)}")
        click.echo("\n".join(_lines([c for c in changes if c.opens is opens])) or "  nothing")


def _lines(changes: list[Change]) -> list[str]:
    """Changes by the rule that lets through. A forwarded packet follows the others, if there are any."""
    from engine.explain.packet import packet_text
    from native.facts import Direction

    groups: dict[tuple[str, str], list[Change]] = {}
    for change in changes:
        rule = change.after if change.opens else change.before
        groups.setdefault((rule.id, rule.what), []).append(change)
    lines = []
    for (rule_id, what), group in groups.items():
        lines.append(f"  {click.style(rule_id, bold=True)}: {what}")
        ours = [change for change in group if change.example.direction is not Direction.FORWARD]
        for change in ours or group[:1]:
            other = change.before if change.opens else change.after
            lines.append(f"      {'was' if change.opens else 'is then'} blocked by {other.id}: {other.what}")
            lines.append(f"      e.g. {packet_text(change.example)}")
    return lines


def _change(change: Change) -> dict[str, Any]:
    from engine.explain.packet import packet_text

    return {
        "change": "opens" if change.opens else "closes",
        "before": {"rule": change.before.id, "what": change.before.what},
        "after": {"rule": change.after.id, "what": change.after.what},
        "example": packet_text(change.example),
    }


def _table(policy: Policy) -> str:
    from engine.explain import words
    from engine.policy import rules_for

    colours = {"accept": "green", "reject": "red", "drop": "red"}
    lines = [
        f"policy: {policy.describe()}",
        "The first rule that matches decides; blocked incoming packets get no answer.",
        "",
    ]
    for number, rule in enumerate(rules_for(policy), 1):
        verdict = click.style(f"{words.verdict(rule):7}", fg=colours[words.verdict(rule)])
        lines.append(f"{number:3} {rule.id:8} {verdict} {words.directions(rule):15} {rule.what}")
        lines.append(f"{'':37}{words.conditions(rule)}")
    return "\n".join(lines)


def _object(policy: Policy) -> dict[str, Any]:
    from engine.explain import words
    from engine.policy import rules_for
    from engine.policy.sentences import SENTENCES

    return {
        "policy": policy.describe(),
        "rules": [
            {
                "rule": rule.id, "verdict": words.verdict(rule), "directions": list(rule.directions),
                "forward": rule.forward, "what": rule.what, "conditions": words.conditions(rule),
                "sentence": SENTENCES[rule.id],
            }
            for rule in rules_for(policy)
        ],
    }  # fmt: skip


def _artefact(policy: Policy, backend: str, as_json: bool) -> str:
    from engine.firewall import nftables, pf, wfp

    match backend:
        case "nftables":
            document = nftables.render(policy)
            lines = ",\n".join(json.dumps(command) for command in document["nftables"])
            return json.dumps(document) if as_json else f'{{"nftables": [\n{lines}\n]}}'
        case "pf":
            text = pf.render(policy)
            return json.dumps({"anchor": pf.ANCHOR, "text": text}) if as_json else text.rstrip("\n")
        case "wfp":
            parts = wfp.to_json(wfp.filters(policy))
            if as_json:
                return json.dumps(parts)
            return "\n".join(json.dumps(entry) for entries in parts.values() for entry in entries)
        case _:
            return _program(policy, as_json)


def _program(policy: Policy, as_json: bool) -> str:
    from engine.explain.program import listing
    from engine.filter import compile_policy

    compiled = compile_policy(policy)
    if as_json:
        return json.dumps({"bytes": len(compiled.code), "rules": compiled.ids, "program": compiled.code.hex()})
    return listing(compiled)
