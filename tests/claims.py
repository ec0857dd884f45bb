"""docs/security.md: every claim of the policy with its sentence, its enforcers, its tests and its proofs.

`python -m tests.claims` writes the page anew; a test holds it to the code, so it cannot drift. A test stands for a
claim if it names its id: in the name of the function (`test_ctd2_...`), or, if none does, in its body.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from engine.firewall import nftables, pf, wfp
from engine.firewall.assumptions import DIFFERENCES
from engine.policy import Platform, Policy, State, Tunnel, rules_for
from engine.policy.sentences import SENTENCES
from tests.judging import API, BRIDGE, RELAY, TUNNEL
from tests.properties.policies import RESOLVER

ROOT = Path(__file__).resolve().parents[1]
DOC = ROOT / "docs" / "security.md"
SHOWN = 2  # tests named in a cell of the table; the rest is counted


@dataclass(frozen=True)
class Test:
    """A test function that stands for a claim. `by_name`: the claim is in the function's name."""

    file: str
    name: str
    by_name: bool


def tests_by_claim() -> dict[str, list[Test]]:
    """Every test of every claim, the ones that carry it in their name first."""
    found: dict[str, list[Test]] = defaultdict(list)
    words = {claim: re.compile(rf"_{_word(claim)}(_|$)") for claim in SENTENCES}
    ids = re.compile(rf"(?<![\w-])(?:{'|'.join(SENTENCES)})(?!\w)")
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        text = path.read_text()
        lines = text.splitlines()
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or not node.name.startswith("test_"):
                continue
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            named = set(ids.findall("\n".join(lines[first - 1 : node.end_lineno])))
            for claim in SENTENCES:
                by_name = words[claim].search(node.name) is not None
                if by_name or claim in named:
                    found[claim].append(Test(str(path.relative_to(ROOT)), node.name, by_name))
    return {claim: sorted(tests, key=lambda test: not test.by_name) for claim, tests in found.items()}


def _word(claim: str) -> str:
    """How a claim is written in the name of a test: ctd2, dhcp4_1."""
    family, number = claim.lower().split("-")
    return f"{family}_?{number}" if not family[-1].isdigit() else f"{family}_{number}"


# Tests that stand for a claim without naming it: file and function.
_ALSO = {
    "KS-1": (
        "tests/netns/leaklab/test_short.py::test_the_daemon_leaks_nothing",
        "tests/netns/test_leaks.py::test_no_state_and_no_change_of_state_lets_anything_out",
    ),
    "ATOM-1": ("tests/netns/leaklab/test_short.py::test_ten_thousand_transitions_leak_nothing_and_lose_nothing",),
    "ERR-2": (
        "tests/unit/state/test_machine.py::test_an_error_keeps_its_cause_in_the_status_until_connected",
        "tests/unit/state/test_machine.py::test_an_error_is_left_by_disconnecting_at_once_for_no_tunnel_runs",
    ),
    "ERR-3": ("tests/unit/service/test_session.py::test_a_policy_that_cannot_be_applied_is_told_and_everything_is_dropped_instead",),  # noqa: E501
    "BOOT-1": ("tests/unit/firewall/test_wfp.py::test_without_a_service_everything_is_blocked_from_boot_on",),
}  # fmt: skip

_PACKETS = "native, reference, nftables, pf, wfp"
# Claims that no single rule carries.
_ENFORCED = {
    "FWD-1": "native, reference, nftables (pf judges each side; wfp forwards nothing)",
    "API-2": f"{_PACKETS}: no API-1 in Connected",
    "DIS-2": f"{_PACKETS}: Error's rules",
    "DSC-1": f"{_PACKETS}: the rules stay",
    "ERR-1": f"{_PACKETS}: what is left",
    "DNS-4": f"{_PACKETS}: nothing is enforced",
    "KS-1": f"{_PACKETS}: the sum; state machine",
    "ERR-2": "state machine",
    "ERR-3": "state machine, service, nftables apply",
    "ATOM-1": "native snapshot; one transaction each in nftables, pf, wfp",
    "EXIT-1": "daemon: by who asked for the end (systemd is asked), and what was wanted",
    "BOOT-1": "daemon: `--early-boot-blocking`, on Linux; wfp: persistent filters; macOS not yet",
    "START-1": "daemon: by the settings, and by the target state that a crash leaves",
    "IPC-1": "daemon: a Unix socket that hangs up on whatever is not JSON",
    "UI-1": "import rules: no command but the problem report opens TLS, no front end loads anything",
    "MOB-1": "native, reference",
    "MOB-3": "shown by `molehill profile show android`: cannot be enforced",
}

# What the proofs are made of: the specification that every enforcer is proven equal to, and properties by themselves.
PROOFS = ("tests/proofs/spec.py", "tests/proofs/safety.py")

_HEAD = """# Security: what is promised, who enforces it, what shows it

Every claim of the [policy](policy.md) with the enforcers that carry it, a test and a proof. The page is written by
`python -m tests.claims`, and a test fails if it names something that is not so.

* **native**: the packet filter in the TUN (`native/src/verdict.c`). **reference**: the readable evaluator it is held
  equal to. **nftables**, **pf**, **wfp**: the firewalls of Linux, macOS and Windows.
* PF and WFP have never been loaded on a real macOS or Windows: their texts and filters are judged by models of the
  documented semantics. nftables is held against the real kernel.
* Where a firewall cannot say what the policy says, the difference has a name: see the end of the page. What a mode
  cannot block at all is in [known issues](known-issues.md).
* **spec**: the claim is a sentence of the specification that the native program, the reference rules and each
  firewall's rendered text are proven equal to. **safety**: it is proven as a property by itself.
* `molehill explain` tells for any packet which claim decides, and what each enforcer does.

"""


def enforcers() -> dict[str, str]:
    """Who carries a claim: by its id in what is rendered for every state and setting, else as it is written here."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    dns = ((), RESOLVER)
    for platform, state, flag, servers, bridge in product(Platform, State, (False, True), dns, (None, BRIDGE)):
        tunnel = Tunnel("utun4", TUNNEL.addresses, TUNNEL.gateways)
        policy = Policy(
            state, platform, flag, peer=RELAY, bridge=bridge, api=API, tunnel=tunnel, dns=servers,
            kept=State.CONNECTING if state is State.DISCONNECTING else None,
        )  # fmt: skip
        for rule in rules_for(policy):
            found[rule.id] |= {"native": None, "reference": None}
        match platform:
            case Platform.LINUX:
                rules = [c["add"]["rule"] for c in nftables.render(policy)["nftables"] if "rule" in c.get("add", {})]
                carried = {"nftables": {rule["comment"] for rule in rules}}
            case Platform.MACOS:
                carried = {"pf": set(re.findall(r'label "([^"]+)"', pf.render(policy)))}
            case Platform.WINDOWS:
                carried = {"wfp": {filter_.rule for filter_ in wfp.filters(policy).filters}}
            case _:
                carried = {}
        for name, ids in carried.items():
            for claim in ids & set(SENTENCES):
                found[claim][name] = None
    found["DIS-1"] |= {"nftables": None, "pf": None, "wfp": None}  # by having no rules at all
    order = _PACKETS.split(", ")
    computed = {claim: ", ".join(sorted(names, key=order.index)) for claim, names in found.items()}
    return {claim: _ENFORCED.get(claim) or computed[claim] for claim in SENTENCES}


def evidence() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Of each claim: its tests, as file::function, and the proofs' files that name it."""
    tests: dict[str, list[str]] = {claim: [] for claim in SENTENCES}
    proofs = {claim: [file for file in PROOFS if _names(file, claim)] for claim in SENTENCES}
    for claim, found in tests_by_claim().items():
        for test in found:
            if test.by_name or not any(other.by_name for other in found):
                tests[claim].append(f"{test.file}::{test.name}")
    for claim, names in _ALSO.items():
        tests[claim] = [*names, *(name for name in tests[claim] if name not in names)]
    return tests, proofs


def _names(file: str, claim: str) -> bool:
    """Whether a file of the proofs is there and names a claim."""
    path = ROOT / file
    return path.exists() and re.search(rf"(?<![\w-]){claim}(?!\w)", path.read_text()) is not None


def page() -> str:
    """The whole page."""
    tests, proofs = evidence()
    carried = enforcers()
    lines = [_HEAD + "| claim | what is promised | enforced by | tests | proofs |", "|---|---|---|---|---|"]
    for claim, sentence in SENTENCES.items():
        cells = [_links(tests[claim]) or "-", _links(proofs[claim]) or "-"]
        lines.append(" | ".join([f"| {claim}", sentence, carried[claim], *cells]) + " |")
    lines += ["", "## Where the firewalls differ", ""]
    lines += ["| difference | firewalls | errs on the safe side | what |", "|---|---|---|---|"]
    for it in DIFFERENCES:
        lines.append(f"| {it.name} | {', '.join(it.backends)} | {'yes' if it.stricter else 'no'} | {it.what} |")
    return "\n".join(lines) + "\n"


def _links(names: list[str]) -> str:
    parts = (name.partition("::") for name in names[:SHOWN])
    return "<br>".join(f"[{function or Path(file).stem}](../{file})" for file, _, function in parts)


if __name__ == "__main__":
    DOC.write_text(page())
