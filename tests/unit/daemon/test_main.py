"""What the daemon decides before it starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.daemon import main
from engine.daemon.main import Options, chosen_mode


@pytest.mark.parametrize(("missing", "firewall"), [([], True), (["the kernel has no nf_tables"], False)])
def test_without_a_choice_the_firewall_is_used_where_the_machine_can_and_else_it_is_said(
    monkeypatch: pytest.MonkeyPatch, missing: list[str], firewall: bool
) -> None:
    monkeypatch.setattr(main.nftables, "missing", lambda: missing)
    chosen, notice = chosen_mode(Options("molehill0", None, Path("s")))
    assert chosen is firewall
    assert bool(notice) is bool(missing)
    assert all(each in notice for each in missing)
    for wanted in (True, False):
        assert chosen_mode(Options("molehill0", wanted, Path("s"))) == (wanted, "")
