"""The daemon's commands against a daemon of a few lines: what they ask, what they say, how they end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from engine.cli.main import BAD_INPUT, FAILED, MISSING, OK, molehill
from engine.management import schema
from engine.management.schema import Bridge, BridgeKind, ErrorCode, RelayChoice, TunnelChoice
from tests.management_fake import CONNECTED, CONNECTING, RELAYS, FakeDaemon, Refused

ROOT = Path(__file__).parents[3]
CONF = """\
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.64.0.2/32
PostUp = x
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 0.0.0.0/0
Endpoint = 192.0.2.7:51820
"""


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDaemon]:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    with FakeDaemon(tmp_path / "management.socket") as fake:
        fake.reaches = False
        yield fake


def run(*words: str, stdin: str | None = None) -> Result:
    result = CliRunner().invoke(molehill, list(words), prog_name="molehill", input=stdin)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def methods(daemon: FakeDaemon) -> list[str]:
    return [method for method, _ in daemon.asked]


# status


def test_status_is_the_daemons_where_one_answers(daemon: FakeDaemon) -> None:
    daemon.show(CONNECTED, notices=("settings.json cannot be read",))
    brief, full = run("status").output, run("status", "-v").output
    assert "CONNECTED since" in brief
    assert "home at 192.0.2.7:51820" in brief
    assert "settings.json cannot be read" in brief
    assert ("CTD-1 4" in brief, "CTD-1 4" in full) == (False, True)
    assert json.loads(run("status", "--json").output)["state"] == "connected"


def test_status_listen_shows_every_change_and_ends_with_the_daemon(daemon: FakeDaemon) -> None:
    daemon.course, daemon.hangs_up = [CONNECTING, CONNECTED], True
    result = run("status", "listen", "--json")
    assert [json.loads(line)["state"] for line in result.stdout.splitlines()] == [
        "disconnected", "connecting", "connected",
    ]  # fmt: skip
    assert (result.exit_code, result.stderr) == (FAILED, "molehill: the daemon has closed the connection\n")


@pytest.mark.parametrize("words", [["connect"], ["lan", "get"], ["tunnel", "list"], ["log"], ["debug", "block"]])
def test_without_a_daemon_every_command_says_how_to_start_it(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    result = run(*words)
    assert result.exit_code == FAILED
    assert result.stderr == "molehill: the molehill daemon is not running: sudo systemctl start molehill\n"


def test_without_a_daemon_it_is_told_that_traffic_stays_blocked_and_what_else_there_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    monkeypatch.setattr("engine.host.is_captured", lambda: True)
    blocked = "; what an earlier run captured stays blocked: sudo molehill unblock opens it\n"
    start = "molehill: the molehill daemon is not running: sudo systemctl start molehill"
    assert run("disconnect").stderr == start + blocked
    packet = "out other udp 192.0.2.1:1 > 192.0.2.2:2"
    assert run("explain", packet).stderr == f"{start}; or name a state: --state STATE{blocked}"


def test_a_socket_that_is_not_for_this_user_is_exit_code_3(daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("socket.socket.connect", refuse)
    result = run("connect")
    assert result.exit_code == MISSING
    assert "may not be opened by this user: use sudo" in result.stderr


# settings


@pytest.mark.parametrize(
    ("words", "field", "value", "shown"),
    [
        (["lan", "set", "allow"], "allow_lan", True, "allow: the local network may be reached"),
        (["lockdown", "set", "on"], "always_require_vpn", True, "on: without the VPN everything is blocked"),
        (["auto-connect", "set", "on"], "auto_connect", True, "on: the service connects as soon as it starts"),
        (["dns", "set", "custom", "9.9.9.9", "192.168.1.53"], "dns", ("9.9.9.9", "192.168.1.53"), "custom: 9.9.9.9, "),
        (["mtu", "set", "1300"], "mtu", 1300, "1300\n"),
        (["api", "set", "203.0.113.7:443/tcp"], "api", "203.0.113.7:443/tcp", "203.0.113.7:443/tcp\n"),
    ],
)
def test_a_setting_is_changed_alone_shown_and_put_back(
    daemon: FakeDaemon, words: list[str], field: str, value: Any, shown: str
) -> None:
    before = daemon.settings
    result = run(*words)
    assert result.exit_code == OK
    assert result.output.startswith(shown)
    assert daemon.settings == replace(before, **{field: value})
    assert run(words[0], "get").output == result.output
    assert json.loads(run(words[0], "get", "--json").output) == {field: list(value) if field == "dns" else value}
    back = {"lan": "block", "dns": "default", "mtu": "auto", "api": "none"}.get(words[0], "off")
    assert run(words[0], "set", back).output.startswith(back)
    assert daemon.settings == before


def test_what_the_daemon_refuses_is_its_sentence_and_exit_code_2(daemon: FakeDaemon) -> None:
    daemon.refuses["settings.set"] = Refused(ErrorCode.BAD_INPUT, "the MTU must be 1280 to 65535, not 1")
    result = run("mtu", "set", "1")
    assert (result.exit_code, result.stderr) == (BAD_INPUT, "molehill: the MTU must be 1280 to 65535, not 1\n")


def test_a_word_that_is_none_of_the_settings_values_is_not_asked_of_the_daemon(daemon: FakeDaemon) -> None:
    for words in (["lan", "set", "maybe"], ["mtu", "set", "big"], ["mtu", "set", "9" * 5000], ["dns", "set", "custom"]):
        assert run(*words).exit_code == BAD_INPUT
    assert daemon.asked == []


def test_reset_settings_asks_first(daemon: FakeDaemon) -> None:
    run("lan", "set", "allow")
    assert run("reset-settings", stdin="n\n").exit_code == FAILED
    assert daemon.settings.allow_lan
    assert run("reset-settings", "--yes").exit_code == OK
    assert not daemon.settings.allow_lan


# bridge


def test_a_bridge_is_set_shown_without_its_password_and_removed(daemon: FakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("pass word\n")
    file.chmod(0o600)
    words = ["shadowsocks", "203.0.113.9:443", "--cipher", "aes-256-gcm", "--password-file", str(file)]
    result = run("bridge", "set", *words)
    assert (result.exit_code, result.output) == (OK, "shadowsocks 203.0.113.9:443 aes-256-gcm\n")
    bridge = Bridge(BridgeKind.SHADOWSOCKS, "203.0.113.9:443", "aes-256-gcm")
    assert daemon.asked == [("bridge.set", schema.SetBridge(bridge, "pass word"))]
    assert run("bridge", "get").output == result.output
    assert run("bridge", "set", "udp-over-tcp", "203.0.113.9:80").output == "udp-over-tcp 203.0.113.9:80\n"
    assert run("bridge", "set", "off").output == "off\n"
    assert daemon.settings.bridge is None


@pytest.mark.parametrize(
    ("text", "mode", "sentence"),
    [
        ("secret", 0o640, "others than its owner may read it: chmod 600"),
        ("", 0o600, "it must have one line of text"),
        ("two\nlines\n", 0o600, "it must have one line of text"),
        ("x" * 2000, 0o600, "it must have one line of text"),
    ],
)
def test_a_password_file_that_is_not_one_is_refused(
    daemon: FakeDaemon, tmp_path: Path, text: str, mode: int, sentence: str
) -> None:
    file = tmp_path / "key"
    file.write_text(text)
    file.chmod(mode)
    result = run("bridge", "set", "shadowsocks", "203.0.113.9:443", "--cipher", "x", "--password-file", str(file))
    assert result.exit_code == BAD_INPUT
    assert sentence in result.stderr
    assert daemon.asked == []


def test_a_password_is_never_taken_from_the_command_line_nor_from_a_pipe(daemon: FakeDaemon) -> None:
    words = ["bridge", "set", "shadowsocks", "203.0.113.9:443", "--cipher", "x"]
    assert run(*words, "--password", "secret").exit_code == BAD_INPUT
    result = run(*words, stdin="secret\n")
    assert result.exit_code == BAD_INPUT
    assert "use --password-file" in result.stderr


# tunnels and relays


def test_tunnels_are_imported_listed_chosen_and_removed(daemon: FakeDaemon, tmp_path: Path) -> None:
    conf = tmp_path / "se1.conf"
    conf.write_text(CONF)
    imported = run("tunnel", "import", str(conf))
    assert (imported.exit_code, imported.stdout) == (OK, "imported se1: 10.64.0.2/32\n")
    assert "PostUp is not run" in imported.stderr
    assert daemon.asked == [("tunnel.import", schema.ImportTunnel("se1", conf.read_text()))]
    assert run("tunnel", "import", str(conf)).exit_code == BAD_INPUT
    assert run("tunnel", "import", str(conf), "--replace").exit_code == OK
    assert run("tunnel", "import", "-", "--name", "no1", stdin=CONF).exit_code == OK
    assert run("tunnel", "choose", "se1").exit_code == OK
    assert daemon.settings.choice == TunnelChoice("se1")
    assert [line.split()[:2] for line in run("tunnel", "list").output.splitlines()] == [
        ["home", "192.0.2.7:51820"],
        ["*", "se1"],
        ["no1", "192.0.2.7:51820"],
    ]
    assert json.loads(run("tunnel", "list", "--json").output)["choice"] == {"by": "tunnel", "name": "se1"}
    assert run("tunnel", "remove", "no1").output == "removed: no1\n"
    assert [tunnel.name for tunnel in daemon.tunnels] == ["home", "se1"]


@pytest.mark.parametrize("verb", ["choose", "remove"])
def test_a_mistyped_tunnel_is_told_its_neighbour(daemon: FakeDaemon, verb: str) -> None:
    result = run("tunnel", verb, "hom")
    assert (result.exit_code, result.stderr) == (BAD_INPUT, "molehill: there is no tunnel 'hom': did you mean home?\n")


def test_a_file_that_cannot_be_imported_is_named(daemon: FakeDaemon, tmp_path: Path) -> None:
    binary = tmp_path / "x.conf"
    binary.write_bytes(b"ab\xff")
    big = tmp_path / "big.conf"
    big.write_bytes(b"#" * (256 * 1024 + 1))
    for path, sentence in ((tmp_path / "none", "No such file"), (binary, "byte 3"), (big, "longer than 256 KiB")):
        result = run("tunnel", "import", str(path))
        assert result.exit_code == BAD_INPUT
        assert f"{path}: " in result.stderr
        assert sentence in result.stderr
    assert run("tunnel", "import", "-", stdin="x").exit_code == BAD_INPUT
    assert daemon.asked == []


def test_a_relay_list_is_loaded_shown_and_chosen_from(daemon: FakeDaemon, tmp_path: Path) -> None:
    first, *others = RELAYS.relays
    bridged = replace(
        first, ipv6="2001:db8::2", active=False, bridges=(schema.RelayBridge(BridgeKind.UDP_OVER_TCP, 443),)
    )
    file = tmp_path / "relays.json"
    file.write_bytes(msgspec.json.encode(schema.RelayList(relays=(*others, bridged))))
    assert run("relay", "load", str(file)).output == "4 relays\n"
    listed = run("relay", "list").output.splitlines()
    assert listed[:2] == ["ch zurich", "  ch-zrh-1  192.0.2.21, 2001:db8::2, udp-over-tcp, not active"]
    assert listed[2:5] == ["se gothenburg", "  se-got-1  192.0.2.11", "  se-got-2  192.0.2.12"]
    assert "ch-zrh-1" not in run("relay", "list", "se").output
    chosen = run("relay", "set", "location", "se", "gothenburg", "se-got-1", "--ip-version", "6")
    assert chosen.output == "relay se gothenburg se-got-1 over IPv6, with the key of home\n"
    assert daemon.settings.choice == RelayChoice("home", "se", "gothenburg", "se-got-1", 6)
    assert run("relay", "set", "location", "any").output == "relay any over IPv4, with the key of home\n"
    assert run("relay", "get").output == "relay any over IPv4, with the key of home\n"


def test_places_are_found_whatever_their_case_and_kept_as_the_list_has_them(daemon: FakeDaemon) -> None:
    assert run("relay", "set", "location", "SE", "Gothenburg", "SE-GOT-1").exit_code == OK
    assert daemon.settings.choice == RelayChoice("home", "se", "gothenburg", "se-got-1", 4)
    assert run("relay", "list", "Se").output == run("relay", "list", "se").output


def test_without_a_choice_the_only_tunnel_lends_its_key_and_of_two_none_is_guessed(daemon: FakeDaemon) -> None:
    daemon.settings = schema.Settings()
    assert run("relay", "set", "location", "se").output.endswith("with the key of home\n")
    daemon.settings = schema.Settings()
    daemon.tunnels = (*daemon.tunnels, replace(daemon.tunnels[0], name="work"))
    result = run("relay", "set", "location", "se")
    assert (result.exit_code, result.stderr) == (
        BAD_INPUT,
        "molehill: choose whose key is used with --identity: home, work\n",
    )
    assert run("relay", "set", "location", "se", "--identity", "work").exit_code == OK


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["sea"], "there is no country 'sea': did you mean se?"),
        (["se", "gothenborg"], "there is no city 'gothenborg': did you mean gothenburg?"),
        (["se", "zurich"], "there is no city 'zurich'"),
        (["se", "stockholm", "se-got-1"], "there is no relay 'se-got-1': did you mean se-sto-1?"),
        (["any", "stockholm"], "any is every country"),
        (["se", "--identity", "hom"], "there is no tunnel 'hom': did you mean home?"),
    ],
)
def test_a_place_that_no_relay_is_at_is_not_set(daemon: FakeDaemon, words: list[str], sentence: str) -> None:
    result = run("relay", "set", "location", *words)
    assert result.exit_code == BAD_INPUT
    assert sentence in result.stderr
    assert "settings.set" not in methods(daemon)


def test_a_bad_relay_list_is_told_where_it_is_bad(daemon: FakeDaemon, tmp_path: Path) -> None:
    file = tmp_path / "relays.json"
    file.write_text('{"relays": [{"hostname": "x"}]}')
    result = run("relay", "load", str(file))
    assert result.exit_code == BAD_INPUT
    assert "missing required field `country` - at `$.relays[0]`" in result.stderr
    assert daemon.asked == []


# log, explain, debug


def test_the_log_is_shown_by_its_newest_lines(daemon: FakeDaemon) -> None:
    daemon.log("one", at=1795459812.25)
    daemon.log("two", "error", at=1795459813.0)
    assert [line[20:] for line in run("log").output.splitlines()] == ["250 info     one", "000 error    two"]
    assert run("log", "-n", "1", "--json").output == '{"type":"log","at":1795459813.0,"level":"error","text":"two"}\n'
    assert run("log", "-n", "-1").exit_code == BAD_INPUT


def test_the_log_is_followed_until_the_daemon_ends(daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.log("one")
    with subprocess.Popen(
        [sys.executable, "-m", "engine.cli.main", "log", "--follow"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=os.environ | {"MOLEHILL_RUN_DIR": str(tmp_path)}, cwd=ROOT, text=True,
    ) as following:  # fmt: skip
        assert following.stdout is not None
        assert following.stdout.readline().endswith("one\n")
        daemon.log("two", at=1795459815.0)
        assert following.stdout.readline().endswith("two\n")
        daemon.stop()
        assert following.wait(10) == FAILED
        assert following.stdout.read() == "", "no line twice"
    daemon.start()


def test_explain_without_a_state_asks_for_the_policy_in_force(daemon: FakeDaemon) -> None:
    packet = "out other udp 192.168.1.5:1 > 9.9.9.9:53"
    assert run("explain", packet).output == f"{packet}\n  REJECT by P-0\n"
    assert json.loads(run("explain", packet, "--json").output)["rule"] == "P-0"
    assert run("explain", packet, "--allow-lan").exit_code == BAD_INPUT


def test_debug_block_shows_what_came_of_it(daemon: FakeDaemon) -> None:
    daemon.show(CONNECTED)
    assert run("debug", "block", "to see").output == "error: to see\n"
    assert daemon.asked_for("debug.block") == [schema.Detail("to see")]


# all of them


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_completion_script_asks_us(shell: str) -> None:
    assert "_MOLEHILL_COMPLETE=" in run("completion", shell).stdout


def complete(line: str, folder: Path) -> list[str]:
    """What bash is offered for the last word."""
    words = line.split(" ")
    environ = os.environ | {
        "MOLEHILL_RUN_DIR": str(folder), "_MOLEHILL_COMPLETE": "bash_complete",
        "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", "from engine.cli.main import main; main()"],
        env=environ, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return [line.partition(",")[2] for line in done.stdout.splitlines()]


def test_commands_tunnels_and_relays_are_completed(daemon: FakeDaemon, tmp_path: Path) -> None:
    assert complete("molehill dis", tmp_path) == ["disconnect"]
    assert complete("molehill tunnel choose h", tmp_path) == ["home"]
    assert complete("molehill relay set location c", tmp_path) == ["ch"]
    assert complete("molehill tunnel choose h", tmp_path / "nobody") == [""]


def test_no_command_of_the_daemon_imports_what_is_heavy(daemon: FakeDaemon, tmp_path: Path) -> None:
    """Their start is what users wait for: no engine, no event loop library, no netlink."""
    commands = [
        ["connect"], ["connect", "--help"], ["disconnect"], ["status"], ["tunnel", "list"], ["relay", "list"],
        ["lan", "get"], ["dns", "get"], ["bridge", "get"], ["log"], ["debug", "block"], ["problem-report", "--help"],
        ["completion", "zsh"], ["explain", "out other"],
    ]  # fmt: skip
    script = (
        "import sys, json\nfrom engine.cli.main import molehill\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try: molehill(words, prog_name='molehill')\n"
        "    except SystemExit as end: assert not end.code, words\n"
        "heavy = {'pyroute2', 'nacl', 'native', 'cffi', 'uvloop', 'asyncio', 'scapy', 'pytun', 'dbus_fast', 'ssl',"
        " 'engine.daemon', 'engine.service', 'engine.host', 'engine.policy', 'engine.wg'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, json.dumps(commands)], cwd=ROOT, capture_output=True, text=True, check=False,
        env=os.environ | {"MOLEHILL_RUN_DIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
