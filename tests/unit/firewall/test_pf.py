"""The text for PF, which states survive it, and what the applier would tell pfctl."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from ipaddress import ip_address

import pytest

from engine.firewall import FirewallError, pf
from engine.firewall.packet import Packet
from engine.firewall.pf import apply
from engine.firewall.pf.evaluate import Outcome, judge, parse
from engine.firewall.pf.states import PfState, parse_states, survives
from engine.policy import Direction, Interface, Platform, Policy, State, Tunnel
from engine.policy.nets import TCP, UDP
from tests.unit.firewall.golden import POLICIES, for_platform

BLOCKING = [name for name, policy in POLICIES.items() if policy.blocks]
MAC = {name: for_platform(name, Platform.MACOS) for name in POLICIES}
NOWHERE = ip_address("203.0.113.200")


@pytest.mark.parametrize("name", BLOCKING)
def test_every_rule_is_quick_and_the_last_two_block_everything(name: str) -> None:
    rules = parse(pf.render(MAC[name]))
    assert all(rule.quick for rule in rules)
    assert pf.render(MAC[name]).splitlines()[-2:] == [
        'block return out quick all label "P-0"',
        'block drop in quick all label "P-0"',
    ]


@pytest.mark.parametrize("name", BLOCKING)
def test_fragments_are_put_together_first(name: str) -> None:
    assert pf.render(MAC[name]).startswith("scrub all fragment reassemble\n")


def test_disconnected_is_an_empty_anchor() -> None:
    assert pf.render(Policy(State.DISCONNECTED, Platform.MACOS)) == ""


@pytest.mark.parametrize("name", BLOCKING)
def test_only_flows_whose_answers_the_policy_permits_are_kept(name: str) -> None:
    kept = {rule.label for rule in parse(pf.render(MAC[name])) if rule.keep_state}
    assert kept <= {"CON-1", "CTD-3", "API-1", "DNS-2"}


@pytest.mark.parametrize("name", ["utun", "any", "lo0 all", 'x"', "a b", "utun4\npass all", "!utun4", "wg*"])
def test_a_tunnel_name_that_pf_would_read_otherwise_is_refused(name: str) -> None:
    try:
        tunnel = Tunnel(name, (), ())
    except ValueError:
        return
    with pytest.raises(ValueError, match="letters and a number"):
        pf.render(Policy(State.CONNECTED, Platform.MACOS, tunnel=tunnel))


@pytest.mark.parametrize("platform", [p for p in Platform if p is not Platform.MACOS])
def test_another_platforms_policy_is_refused(platform: Platform) -> None:
    with pytest.raises(ValueError, match="macOS"):
        pf.render(Policy(State.ERROR, platform))


@pytest.mark.parametrize("line", ["pass all", "pass out quick all", 'match out quick all label "x"'])
def test_text_outside_the_grammar_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match="grammar"):
        parse(f"scrub all fragment reassemble\n{line}")


def test_without_quick_the_last_match_would_decide() -> None:
    text = 'scrub all fragment reassemble\nblock drop out all label "a"\npass out all no state label "b"\n'
    packet = Packet(Direction.OUT, Interface.OTHER, UDP, NOWHERE, NOWHERE, 1, 2)
    assert judge(parse(text), packet, None) == (Outcome.PASS, "b")
    assert judge(parse(text.replace("out all", "out quick all", 1)), packet, None) == (Outcome.DROP, "a")


def test_pf_passes_what_no_rule_matches_so_the_last_rules_must_block() -> None:
    packet = Packet(Direction.OUT, Interface.OTHER, UDP, NOWHERE, NOWHERE, 1, 2)
    assert judge((), packet, None) == (Outcome.PASS, None)


LISTING = """\
ALL udp 192.168.1.5:50000 -> 198.51.100.7:51820       MULTIPLE:MULTIPLE
ALL tcp 192.168.1.5:50001 -> 192.0.2.80:443       ESTABLISHED:ESTABLISHED
ALL tcp 10.64.0.2:50002 -> 203.0.113.200:443       ESTABLISHED:ESTABLISHED
ALL tcp 192.168.1.5:50003 (10.0.0.9:50003) -> 203.0.113.200:443       ESTABLISHED:ESTABLISHED
ALL tcp 192.168.1.5:22 <- 192.168.1.9:50004       ESTABLISHED:ESTABLISHED
ALL udp fe80::1[50005] -> fe80::2[5353]       SINGLE:NO_TRAFFIC
ALL udp 192.168.1.5:50006 -> 192.168.1.1:53       SINGLE:NO_TRAFFIC
lo0 tcp 127.0.0.1:50007 -> 127.0.0.1:631       ESTABLISHED:ESTABLISHED
"""


def surviving(policy: Policy) -> list[int]:
    """Which lines of the listing survive, counted from 0."""
    tunnel = policy.tunnel
    rules = parse(pf.render(policy))
    states = parse_states(LISTING)
    return [
        index
        for index, state in enumerate(states)
        if isinstance(state, PfState)
        and survives(state, rules, tunnel.name if tunnel else None, tunnel.addresses if tunnel else ())
    ]


def test_states_are_read_in_both_directions_and_families() -> None:
    states = parse_states(LISTING)
    assert states[4] == PfState(
        Direction.IN, "ALL", TCP, ip_address("192.168.1.5"), 22, ip_address("192.168.1.9"), 50004
    )
    assert states[5] == PfState(Direction.OUT, "ALL", UDP, ip_address("fe80::1"), 50005, ip_address("fe80::2"), 5353)
    assert isinstance(states[3], PfState)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("error", [7]),
        ("error-lan-api", [1, 4, 5, 7]),
        ("connecting", [0, 1, 7]),
        ("connected", [0, 2, 7]),
        ("connected-lan", [0, 2, 4, 5, 7]),
        ("disconnecting", [0, 2, 7]),
    ],
)
def test_a_state_survives_a_change_if_the_new_policy_would_let_it_begin(name: str, lines: list[int]) -> None:
    assert surviving(MAC[name]) == lines


def test_dns_to_the_local_network_dies_even_while_lan_is_allowed() -> None:
    assert 6 not in surviving(MAC["connected-lan"])
    local = replace(MAC["connected-lan"], dns=(ip_address("192.168.1.1"),))
    assert 6 in surviving(local)


@pytest.mark.parametrize(
    "line", ["ALL tcp nonsense", "ALL gre 1.2.3.4 -> 5.6.7.8 X:Y", "ALL udp 1.2.3.4:1 -> ::1[2] X"]
)
def test_a_state_that_cannot_be_read_is_not_vouched_for(line: str) -> None:
    assert parse_states(line) == [line]


class Pfctl:
    """A pfctl that notes what it is told and answers as macOS's does."""

    def __init__(self, states: str = "", refuses: str = "") -> None:
        self.calls: list[tuple[list[str], str | None]] = []
        self.states, self.refuses, self.anchor = states, refuses, ""
        self.main = 'scrub-anchor "com.apple/*" all fragment reassemble\nanchor "com.apple/*" all\n'

    def __call__(self, command: list[str], *, input: str | None, **_: object) -> subprocess.CompletedProcess[str]:
        arguments = command[1:]
        self.calls.append((arguments, input))
        if self.refuses and self.refuses in arguments:
            return subprocess.CompletedProcess(command, 1, "", "pfctl: Permission denied")
        output = ""
        if arguments == ["-a", "molehill", "-f", "-"]:
            self.anchor = "\n".join((input or "").splitlines()[1:])
        elif arguments == ["-a", "molehill", "-s", "rules"]:
            output = self.anchor
        elif arguments == ["-f", "-"]:
            self.main = "".join(line for line in (input or "").splitlines(True) if line.startswith(("scrub", "anchor")))
        elif arguments == ["-s", "rules"]:
            output = self.main
        elif arguments == ["-s", "dummynet"]:
            output = 'dummynet-anchor "com.apple/*" all\n'
        elif arguments == ["-s", "nat"]:
            output = 'nat-anchor "com.apple/*" all\n'
        elif arguments == ["-s", "info"]:
            output = "Status: Enabled for 0 days 00:01:00           Debug: Urgent\n"
        elif arguments == ["-s", "states"]:
            output = self.states
        return subprocess.CompletedProcess(command, 0, output, "Token : 77\n" if arguments == ["-E"] else "")


def test_the_anchor_is_called_first_and_loaded_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl()
    monkeypatch.setattr(subprocess, "run", pfctl)
    assert apply.Pf().apply(MAC["connected"]) == []
    loads = [(arguments, text) for arguments, text in pfctl.calls if "-f" in arguments]
    assert loads == [
        (
            ["-f", "-"],
            'scrub-anchor "molehill" all fragment reassemble\nscrub-anchor "com.apple/*" all fragment reassemble\n'
            'nat-anchor "com.apple/*" all\ndummynet-anchor "com.apple/*" all\n'
            'anchor "molehill" all\nanchor "com.apple/*" all\n',
        ),
        (["-a", "molehill", "-f", "-"], pf.render(MAC["connected"])),
    ]


def test_the_main_ruleset_is_left_alone_once_it_calls_the_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl()
    monkeypatch.setattr(subprocess, "run", pfctl)
    machine = apply.Pf()
    for name in ("connecting", "connected", "error"):
        machine.apply(MAC[name])
    assert [arguments for arguments, _ in pfctl.calls].count(["-f", "-"]) == 1


def test_an_anchor_that_is_not_called_first_is_called_first_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl()
    monkeypatch.setattr(subprocess, "run", pfctl)
    pfctl.main = 'pass out quick all flags S/SA keep state\nanchor "molehill" all\n'
    apply.Pf().apply(MAC["error"])
    assert pfctl.main.splitlines() == [
        'scrub-anchor "molehill" all fragment reassemble',
        'anchor "molehill" all',
    ]
    assert "pass out quick all flags S/SA keep state" in str(pfctl.calls)


def test_old_states_are_killed_after_the_rules_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl(states=LISTING)
    monkeypatch.setattr(subprocess, "run", pfctl)
    apply.Pf().apply(MAC["connected"])
    commands = [arguments for arguments, _ in pfctl.calls]
    kills = [arguments for arguments in commands if arguments[0] == "-k"]
    assert ["-k", "192.168.1.9", "-k", "192.168.1.5"] in kills
    assert len(kills) == 5
    assert commands.index(kills[0]) > commands.index(["-a", "molehill", "-f", "-"])


def test_an_unreadable_state_costs_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl(states="ALL gre 1.2.3.4 -> 5.6.7.8 X:Y\n")
    monkeypatch.setattr(subprocess, "run", pfctl)
    apply.Pf().apply(MAC["error"])
    assert pfctl.calls[-1][0] == ["-F", "states"]


def test_pf_is_left_as_it_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl()
    monkeypatch.setattr(subprocess, "run", pfctl)
    machine = apply.Pf()
    machine.apply(MAC["error"])
    machine.apply(MAC["connected"])
    machine.apply(Policy(State.DISCONNECTED, Platform.MACOS))
    commands = [arguments for arguments, _ in pfctl.calls]
    assert commands.count(["-E"]) == 1
    assert commands[-2:] == [["-a", "molehill", "-f", "-"], ["-X", "77"]]


def test_a_refusal_is_told_with_pfctls_own_words_and_what_is_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    pfctl = Pfctl(refuses="-f")
    monkeypatch.setattr(subprocess, "run", pfctl)
    with pytest.raises(
        FirewallError, match=r"none are in force, traffic may be leaking: .*Permission denied"
    ) as caught:
        apply.Pf().apply(MAC["error"])
    assert not caught.value.enforced
    pfctl.anchor = pf.render(MAC["connected"])
    with pytest.raises(FirewallError, match=r"those from before stay in force: .*Permission denied") as caught:
        apply.Pf().apply(MAC["error"])
    assert caught.value.enforced


def test_a_connection_that_cannot_be_killed_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", Pfctl(states=LISTING, refuses="-k"))
    (warning,) = apply.Pf().apply(MAC["error"])
    assert "connections from before may go on" in warning
