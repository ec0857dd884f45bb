"""`apply`: puts a policy in force on this machine's PF. Never run on a real macOS yet (docs/known-issues.md).

Order of events: PF is enabled with a reference of our own (`pfctl -E` gives a token, so that releasing it later
leaves PF as it was found) -> the main ruleset calls our anchor, first of all; the rest of it is kept -> the anchor's
rules are replaced in one transaction (`pfctl -a molehill -f -`) and read back -> states that the new policy would
not let through are killed. Disconnected empties the anchor and releases the token; the call of the empty anchor stays.

Needs root. One thread at a time.
"""

from __future__ import annotations

import re
import subprocess

from engine.firewall.errors import FirewallError, refused
from engine.firewall.pf.evaluate import parse
from engine.firewall.pf.render import ANCHOR, render
from engine.firewall.pf.states import PfState, parse_states, survives
from engine.policy import Policy

_PFCTL = "/sbin/pfctl"  # absolute: nobody's PATH decides what runs as root
_TIMEOUT = 30.0
_CALLS = {"scrub": f'scrub-anchor "{ANCHOR}" all fragment reassemble', "filter": f'anchor "{ANCHOR}" all'}


class Pf:
    """This machine's PF; remembers the reference it holds on it."""

    def __init__(self) -> None:
        self._token: str | None = None

    def apply(self, policy: Policy) -> list[str]:
        """Put `policy` in force; returns warnings, one sentence each. Raises FirewallError, ValueError (render)."""
        text = render(policy)
        if not policy.blocks:
            self.remove()
            return []
        try:
            self._enable()
            self._call_anchor()
            _run("-a", ANCHOR, "-f", "-", stdin=text)
        except OSError as error:
            raise refused("PF", error, former=_rules_are_there()) from error
        rules = parse(text)
        try:
            labels = re.findall(r'label "([^"]+)"', _run("-a", ANCHOR, "-s", "rules"))
        except OSError as error:
            raise FirewallError(f"the rules were loaded but cannot be read back: {error}", enforced=False) from error
        # PF expands lists to several rules and says so under the same label: order and first occurrence must agree.
        if _without_repeats(labels) != _without_repeats([rule.label for rule in rules]):
            raise FirewallError("PF does not hold the rules that were sent, traffic may be leaking", enforced=False)
        return self._kill_states(policy)

    def remove(self) -> None:
        """Empty our anchor and give back the reference on PF (DIS-1, EXIT-1). Raises FirewallError."""
        try:
            _run("-a", ANCHOR, "-f", "-", stdin="")
            if self._token is not None:
                _run("-X", self._token)
                self._token = None
        except OSError as error:
            raise FirewallError(f"PF's rules could not be removed: {error}", enforced=True) from error

    def _enable(self) -> None:
        if self._token is None:
            found = re.search(r"Token : (\d+)", _run("-E", with_errors=True))
            if found is None:
                raise OSError("pfctl -E gave no token")
            self._token = found[1]

    def _call_anchor(self) -> None:
        """Make the main ruleset call our anchor first; it is loaded anew only if it does not do so already."""
        rules = _run("-s", "rules")
        translation = _run("-s", "nat")
        try:
            translation += _run("-s", "dummynet")  # Apple's own; another PF does not know it
        except OSError:
            pass
        wanted = main_ruleset(translation, rules)
        if wanted != _ordered(translation, rules.splitlines()):
            _run("-f", "-", stdin=wanted)

    def _kill_states(self, policy: Policy) -> list[str]:
        tunnel = policy.tunnel.name if policy.tunnel else None
        local = policy.tunnel.addresses if policy.tunnel else ()
        rules = parse(render(policy))
        try:
            for state in parse_states(_run("-s", "states")):
                if isinstance(state, str):
                    _run("-F", "states")  # nobody can say what it is
                    return []
                if not survives(state, rules, tunnel, local):
                    _run("-k", *_source_first(state))
        except OSError as error:
            return [f"connections from before may go on past the new rules: {error}"]
        return []


def _rules_are_there() -> bool:
    try:
        return "Status: Enabled" in _run("-s", "info") and "P-0" in _run("-a", ANCHOR, "-s", "rules")
    except OSError:
        return False


def main_ruleset(translation: str, rules: str) -> str:
    """The main ruleset with the calls of our anchor first, from what `pfctl -s nat`, `dummynet` and `rules` say."""
    others = [line for line in rules.splitlines() if f'"{ANCHOR}"' not in line]
    return _ordered(translation, [_CALLS["scrub"], _CALLS["filter"], *others])


def _ordered(translation: str, rules: list[str]) -> str:
    """PF wants scrub, translation and filter rules in this order."""
    scrub = [line for line in rules if line.startswith(("scrub", "no scrub"))]
    filters = [line for line in rules if line not in scrub]
    lines = [line for line in (*scrub, *translation.splitlines(), *filters) if line.strip()]
    return "\n".join(lines) + "\n"


def _source_first(state: PfState) -> tuple[str, str, str]:
    """Arguments of -k: every state between the two hosts goes, from the one that began to the other."""
    began, other = (state.ours, state.theirs) if state.direction == "out" else (state.theirs, state.ours)
    return str(began), "-k", str(other)


def _without_repeats(labels: list[str]) -> list[str]:
    return [label for index, label in enumerate(labels) if index == 0 or labels[index - 1] != label]


def _run(*arguments: str, stdin: str | None = None, with_errors: bool = False) -> str:
    """Run pfctl and return its output. OSError: it is missing, it hung, or it said no."""
    try:
        done = subprocess.run(
            [_PFCTL, *arguments], input=stdin, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except subprocess.TimeoutExpired as error:
        raise OSError(f"pfctl {' '.join(arguments)} hangs") from error
    if done.returncode != 0:
        raise OSError(f"pfctl {' '.join(arguments)}: {done.stderr.strip() or done.returncode}")
    return done.stdout + (done.stderr if with_errors else "")
