"""`molehill explain` and `molehill policy` as a user meets them."""

import json
import re

import pytest
from click.testing import CliRunner, Result

from engine.cli.main import molehill


def run(*words: str) -> Result:
    result = CliRunner().invoke(molehill, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


RELAY = ("--peer", "198.51.100.7:51820/udp")


def test_explain_says_verdict_rule_sentence_and_backends() -> None:
    result = run("explain", "--state", "connecting", *RELAY, "out other udp 192.168.1.5:4 > 198.51.100.7:51820")
    assert result.exit_code == 0
    assert "REJECT by CON-2" in result.output
    assert "CON-2 says: The first hop may be reached" in result.output
    assert re.search(r"nftables +reject +CON-2", result.output)
    assert re.search(r"wfp +not applicable: the firewall of Windows", result.output)


def test_explain_json_is_one_object_a_packet() -> None:
    result = run(
        "explain", "--state", "error", "--allow-lan", "--json",
        "out other udp 192.168.1.5:68 > 255.255.255.255:67", "in other tcp 9.9.9.9:80 > 192.168.1.5:4000",
    )  # fmt: skip
    first, second = map(json.loads, result.output.splitlines())
    assert result.exit_code == 0
    assert (first["verdict"], first["rule"], first["reason"]) == ("accept", "DHCP4-1", "none")
    assert (second["verdict"], second["rule"], second["reason"]) == ("drop", "P-0", "policy")
    assert set(first["backends"]) == {"native", "reference", "nftables", "pf", "wfp"}


def test_a_typo_ends_with_its_place_and_exit_code_2() -> None:
    result = run("explain", "--state", "error", "out othr udp 1.2.3.4:5 > 1.2.3.4:6")
    assert result.exit_code == 2
    assert "packet 1, column 5: 'othr' is no interface" in result.output
    assert "did you mean 'other'?" in result.output
    assert "      ^^^^" in result.output
    result = run("explain", "--state", "error", "out", "other")
    assert result.exit_code == 2
    assert "in quotes" in result.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("explain", "--state", "error"), "give PACKETs or --pcap"),
        (("explain", "--state", "eror", "x"), "did you mean 'error'"),
        (("explain", "--state", "error", "--peer", "nonsense", "x"), "peer: 'nonsense' is no endpoint"),
        (
            ("policy", "show", "--state", "error", "--backend", "pf", "--platform", "linux"),
            "PF is the firewall of macOS",
        ),
        (("policy", "diff", "connected", "conecting"), "B: 'conecting' is no state: did you mean 'connecting'"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(words: tuple[str, ...], says: str) -> None:
    result = run(*words)
    assert result.exit_code == 2
    assert says in result.output


def test_policy_show_is_the_table_in_order() -> None:
    result = run("policy", "show", "--state", "connected", "--gateway", "10.64.0.1", "--allow-lan")
    rules = re.findall(r"^ +\d+ ([A-Z0-9]+-\d) ", result.output, re.MULTILINE)
    assert result.exit_code == 0
    assert rules[0] == "LO-1"
    assert rules.index("DNS-1") < rules.index("CTD-2") < rules.index("CTD-1") < rules.index("LAN-1")
    assert rules[-1] == "P-0"


@pytest.mark.parametrize("backend", ["native", "nftables", "pf", "wfp"])
def test_policy_show_prints_what_a_backend_is_given(backend: str) -> None:
    plain = run("policy", "show", "--state", "error", "--backend", backend)
    assert plain.exit_code == 0
    assert "LO-1" in plain.output
    assert ("never been loaded on a real" in plain.output) is (backend in ("pf", "wfp"))
    as_json = run("policy", "show", "--state", "error", "--backend", backend, "--json")
    assert json.loads(as_json.output.splitlines()[0])


def test_policy_diff_says_what_opens_and_what_closes() -> None:
    result = run(
        "policy", "diff", "connecting", "connected", *RELAY, "--gateway", "10.64.0.1", "--api", "1.2.3.4:443/tcp"
    )
    opens, closes = result.output.split("\ncloses\n")
    assert "DNS-1: DNS to the gateway" in opens
    assert "e.g. out tunnel tcp 192.168.1.5:40000 > 10.64.0.1:53" in opens
    assert "API-1: to the API" in closes
    result = run("policy", "diff", "connected", "connected allow-lan", "--json")
    assert {json.loads(line)["change"] for line in result.output.splitlines()} == {"opens"}
