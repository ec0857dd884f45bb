"""The README's code is code that runs."""

from itertools import pairwise
from pathlib import Path

from tests.unit.cli.test_explain_doc import BLOCK, printed

ROOT = Path(__file__).resolve().parents[2]


def test_the_library_example_is_the_tested_one() -> None:
    example = (ROOT / "tests/unit/service/example.py").read_text().rstrip()
    assert f"```python\n{example}\n```" in (ROOT / "README.md").read_text()


def test_every_make_target_the_readme_names_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    words = (ROOT / "README.md").read_text().split()
    named = {after.strip("`*.,):") for before, after in pairwise(words) if before.endswith("make")}
    targets = {name for name in named if name.isidentifier()}
    assert {"demo", "test", "bench"} <= targets
    for target in targets:
        assert f"\n{target}:" in makefile, target


def test_what_the_commands_are_said_to_print_is_what_they_print(tmp_path: Path) -> None:
    blocks = list(BLOCK.finditer((ROOT / "README.md").read_text()))
    assert blocks
    for block in blocks:
        assert block["output"] == printed(block["command"], tmp_path)
