"""`molehill tui` as a command: in a terminal, without one, without Textual."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import sys
from pathlib import Path

from engine.cli.main import BAD_INPUT, MISSING, OK
from tests.management_fake import FakeDaemon

ROOT = Path(__file__).parents[3]


def molehill(script: str) -> subprocess.CompletedProcess[str]:
    script += "\nfrom engine.cli.main import molehill\nmolehill(['tui'], prog_name='molehill')"
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)


def test_without_textual_it_says_in_a_sentence_what_to_install() -> None:
    done = molehill("import sys\nsys.modules['textual'] = None")
    assert done.returncode == MISSING
    assert done.stderr == "molehill: the terminal interface needs Textual: pip install 'molehill[tui]'\n"


def test_without_a_terminal_it_names_the_command_for_programs() -> None:
    done = molehill("")
    assert done.returncode == BAD_INPUT
    assert done.stderr == "molehill: molehill tui needs a terminal: molehill status --json is for programs\n"


def test_in_a_terminal_it_shows_the_state_and_leaves_at_q(tmp_path: Path) -> None:
    with FakeDaemon(tmp_path / "management.socket"):
        master, slave = pty.openpty()
        environment = {**os.environ, "MOLEHILL_RUN_DIR": str(tmp_path), "TERM": "xterm-256color"}
        words = [sys.executable, "-m", "engine.cli.main", "tui"]
        process = subprocess.Popen(words, cwd=ROOT, stdin=slave, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        seen = b""
        while b"Nothing is blocked" not in seen and process.poll() is None:
            seen += os.read(master, 65536)
        os.write(master, b"q")
        while process.poll() is None:
            if select.select([master], [], [], 0.1)[0]:
                try:
                    seen += os.read(master, 65536)
                except OSError:  # the terminal's other end is closed
                    break
        os.close(master)
        assert process.wait(20) == OK
        assert b"\x1b[?1049l" in seen  # the terminal has its own screen again
