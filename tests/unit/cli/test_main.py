"""The command line: quick help, exit codes, one-sentence errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from engine import __version__
from engine.cli.main import BAD_INPUT, FAILED, MISSING, OK, molehill
from engine.cli.man import page

ROOT = Path(__file__).parents[3]
GOOD = """\
[Interface]
PrivateKey = yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk=
Address = 10.64.0.2/32
DNS = 10.64.0.1
[Peer]
PublicKey = xTIBA5rboUvnH4htodjb6e697QjLERt1NAB4mZqp8Dg=
AllowedIPs = 0.0.0.0/0
Endpoint = 192.0.2.7:51820
"""


def run(*words: str) -> Result:
    return CliRunner().invoke(molehill, list(words), prog_name="molehill")


def test_help_teaches_with_examples_and_exit_codes() -> None:
    result = run("--help")
    assert result.exit_code == OK
    for words in ("Examples:", "Exit codes:", "molehill connect --wait", "sudo molehill run", "Shell completion"):
        assert words in result.output


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["status", "--help"], ["profile", "--help"], ["version"]]
)
def test_help_imports_nothing_heavy(words: list[str]) -> None:
    script = (
        "import sys, click\nfrom engine.cli.main import molehill\n"
        f"try: molehill({words!r}, prog_name='molehill')\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'nacl', 'native', 'cffi', 'uvloop', 'asyncio', 'msgspec', 'pytun'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_command_and_option_explains_itself() -> None:
    ctx = click.Context(molehill)
    for name in molehill.list_commands(ctx):
        command = molehill.get_command(ctx, name)
        assert command is not None
        assert command.help
        for parameter in command.params:
            assert isinstance(parameter, click.Argument) or getattr(parameter, "help", None), (name, parameter.name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "PrivateKey is missing in [Interface]"),
        ("[Interface]\nFoo = 1\n", "line 2: Foo: there is no such key in this section"),
        (GOOD.replace("Address = 10.64.0.2/32\n", ""), "Address is missing in [Interface]"),
        (GOOD.replace("Endpoint = 192.0.2.7:51820\n", ""), "no [Peer] has an Endpoint"),
        (
            GOOD.replace("AllowedIPs = 0.0.0.0/0\n", ""),
            "no [Peer] has AllowedIPs, so nothing could go through the tunnel",
        ),
        (GOOD.replace("DNS =", "MTU = 600\nDNS ="), "the MTU must be 1280 to 65535, not 600"),
    ],
)
def test_a_bad_configuration_is_one_sentence_and_exit_code_2(tmp_path: Path, text: str, sentence: str) -> None:
    conf = tmp_path / "wg0.conf"
    conf.write_text(text)
    result = run("run", str(conf))
    assert result.exit_code == BAD_INPUT
    assert result.stderr == f"molehill: {conf}: {sentence}\n"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["run", "/nowhere/x.conf"], "molehill: /nowhere/x.conf: No such file or directory\n"),
        (["run", "CONF", "--profile", "windows"], "there is no profile 'windows': use one of linux, android, ios"),
        (["run", "CONF", "--dns", "one.one"], "'one.one' is no IP address"),
        (["run", "CONF", "--interface", "much-too-long-a-name"], "15 bytes"),
        (["run", "CONF", "--bridge", "tor:192.0.2.1:443"], "--bridge: there is no bridge of the kind 'tor'"),
        (["run", "CONF", "--bridge", "shadowsocks:192.0.2.1:443"], "--bridge: a shadowsocks bridge needs a password"),
        (["run", "CONF", "--bridge", "shadowsocks:192.0.2.1:1", "--bridge-cipher", "rc4"], "there is no cipher 'rc4'"),
        (["profile", "show", "beos"], "there is no profile 'beos'"),
        (["dig"], "No such command"),
        (["conect"], "No such command 'conect': did you mean connect?"),
        (["tunnel", "imprt"], "No such command 'imprt': did you mean import?"),
        (["connect", "--wiat"], "--wait"),
        (["run"], "Missing argument"),
    ],
)
def test_bad_input_is_exit_code_2(tmp_path: Path, words: list[str], sentence: str) -> None:
    conf = tmp_path / "wg0.conf"
    conf.write_text(GOOD)
    result = run(*(str(conf) if word == "CONF" else word for word in words))
    assert result.exit_code == BAD_INPUT
    assert sentence in result.stderr
    assert "Traceback" not in result.output


def test_the_password_of_a_bridge_is_read_from_a_file_of_the_owners_alone_and_not_told(tmp_path: Path) -> None:
    conf, secret = tmp_path / "wg0.conf", tmp_path / "secret"
    conf.write_text(GOOD)
    secret.write_text("hunter2\n")
    secret.chmod(0o640)
    words = ["run", str(conf), "--bridge", "udp-over-tcp:192.0.2.1:443", "--bridge-password-file", str(secret)]
    result = run(*words)
    assert (result.exit_code, "others than its owner may read it" in result.stderr) == (BAD_INPUT, True)
    secret.chmod(0o600)
    result = run(*words)
    sentence = "molehill: --bridge: a udp-over-tcp bridge has no password\n"
    assert (result.exit_code, result.output) == (BAD_INPUT, sentence)


def test_a_missing_privilege_is_exit_code_3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.host.capabilities._has_net_admin", lambda: False)
    conf = tmp_path / "wg0.conf"
    conf.write_text(GOOD)
    for words in (["run", str(conf)], ["unblock"]):
        result = run(*words)
        assert result.exit_code == MISSING
        assert "run as root (sudo)" in result.stderr


def test_status_without_a_session_is_exit_code_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLEHILL_RUN_DIR", str(tmp_path))
    result = run("status")
    assert (result.exit_code, result.stderr) == (FAILED, "molehill: molehill is not running\n")
    assert run("status", "--interface", "mh9").exit_code == FAILED


def test_a_secret_never_shows_in_an_error(tmp_path: Path) -> None:
    conf = tmp_path / "wg0.conf"
    conf.write_text(GOOD.replace("PrivateKey = yAnz", "PrivateKey = yAn"))
    result = run("run", str(conf))
    assert result.exit_code == BAD_INPUT
    assert "5TF+lXXJ" not in result.output


def test_profiles_are_listed_and_shown_with_what_they_cannot_block() -> None:
    assert [line.split()[0] for line in run("profile", "list").output.splitlines()] == [
        "linux",
        "android",
        "ios",
        "ios-blocking",
    ]
    shown = run("profile", "show", "android").output
    assert "cannot block:" in shown
    assert "MOB-3" in shown


def test_no_colour_when_nobody_looks() -> None:
    from engine.cli.status import render

    data = json.loads((Path(__file__).parent / "status.json").read_text())
    result = CliRunner().invoke(click.command()(lambda: click.echo(render(data))))
    assert "\x1b" not in result.output
    assert "CONNECTED since" in result.output


def test_the_status_names_a_policy_that_is_not_enforced() -> None:
    from engine.cli.status import render

    data = json.loads((Path(__file__).parent / "status.json").read_text())
    data |= {"state": "error", "enforced": False, "failure": "no memory", "cause": "the device is offline"}
    text = click.unstyle(render(data))
    assert "NOT ENFORCED, TRAFFIC MAY BE LEAKING: no memory" in text
    assert "the device is offline" in text


@pytest.mark.parametrize(
    ("cause", "lockdown", "words"),
    [
        ("tun-device", False, "molehill connect tries again, molehill disconnect gives up and opens"),
        ("tun-device", True, "molehill connect tries again, molehill disconnect gives up, and blocks on: lockdown is"),
        ("offline", False, "it connects by itself once the machine is online; molehill disconnect gives up"),
        ("offline", True, "it connects by itself once the machine is online; molehill disconnect gives up"),
    ],
)
def test_in_error_the_status_says_what_can_be_done_now(cause: str, lockdown: bool, words: str) -> None:
    from engine.cli.status import render

    data = json.loads((Path(__file__).parent / "status.json").read_text())
    data |= {"state": "error", "cause": "some", "cause_kind": cause, "always_require_vpn": lockdown}
    assert "what now" not in render(data)  # a session of molehill run, which has no such commands
    data |= {"connecting_to": None}
    assert f"  what now      {words}" in click.unstyle(render(data))
    assert "what now" not in render(data | {"state": "connecting"})


def test_the_manual_page_is_the_commands_own() -> None:
    shown = (ROOT / "docs" / "molehill.1").read_text()
    assert shown == page(), "run: python -m engine.cli.man > docs/molehill.1"


@pytest.mark.skipif(not os.path.exists("/usr/bin/man"), reason="man is not installed")
def test_man_reads_the_manual_page_without_a_warning() -> None:
    done = subprocess.run(
        ["man", "--warnings", "-l", str(ROOT / "docs" / "molehill.1")], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_version_is_told() -> None:
    assert run("version").output.startswith(f"molehill {__version__}, Python 3.")
    assert run("--version").output == f"molehill {__version__}\n"


def test_unblock_refuses_what_is_no_interface_name() -> None:
    result = run("unblock", "--interface", "../x")
    assert result.exit_code == BAD_INPUT
    assert result.output == "molehill: '../x' is no interface name\n"


def test_the_leak_lab_lists_its_tests_and_knows_what_it_does_not_have() -> None:
    listed = run("leaklab", "--list")
    assert listed.exit_code == OK
    assert "rogue DHCP routes (TunnelVision)" in listed.output
    if os.geteuid() == 0:
        refused = run("leaklab", "--only", "no such test")
        assert refused.exit_code in (BAD_INPUT, MISSING)
        assert "molehill:" in refused.output


@pytest.mark.parametrize("words", [("version",), ("--help",), ("profile", "show", "linux")])
def test_an_output_that_cannot_be_written_is_one_sentence(words: tuple[str, ...]) -> None:
    command = [sys.executable, "-c", "from engine.cli.main import main; main()", *words]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr == "molehill: the output cannot be written: No space left on device\n"
