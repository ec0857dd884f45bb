"""docs/explain.md shows what the commands print. `python -m tests.unit.cli.test_explain_doc` writes it anew."""

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.main import molehill
from tests.evening import CAPTURE, write

DOC = Path(__file__).resolve().parents[3] / "docs" / "explain.md"
BLOCK = re.compile(r"```console\n\$ (?P<command>[^\n]+)\n(?P<output>.*?)```", re.DOTALL)


def printed(command: str, folder: Path) -> str:
    """What a command prints, in a folder with the capture."""
    words = shlex.split(command)
    assert words[0] == "molehill"
    (folder / CAPTURE.name).write_bytes(CAPTURE.read_bytes())
    inside = [str(folder / word) if word.endswith(".pcapng") else word for word in words[1:]]
    return CliRunner().invoke(molehill, inside).output.replace(f"{folder}/", "")


@pytest.mark.parametrize("found", list(BLOCK.finditer(DOC.read_text())), ids=lambda found: found["command"][:60])
def test_the_page_shows_what_the_command_prints(found: re.Match[str], tmp_path: Path) -> None:
    assert found["output"] == printed(found["command"], tmp_path), "run: python -m tests.unit.cli.test_explain_doc"


def test_the_capture_of_the_page_is_what_its_script_writes(tmp_path: Path) -> None:
    write(tmp_path / "evening.pcapng")
    assert (tmp_path / "evening.pcapng").read_bytes() == CAPTURE.read_bytes()


def main() -> None:
    """Write the output of every command into the page."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory() as folder:
        text = BLOCK.sub(
            lambda found: f"```console\n$ {found['command']}\n{printed(found['command'], Path(folder))}```",
            DOC.read_text(),
        )
    DOC.write_text(text)


if __name__ == "__main__":
    main()
