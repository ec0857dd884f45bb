"""Every enforcer does what the document says: a sample of the policies (`make proofs` has all of them)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from engine.policy import Platform
from tests.proofs.policies import Case, corners, grid
from tests.proofs.run import prove

SAMPLE = 331  # of the grid's 3340 policies a platform; prime, so that every setting's turn comes
RANDOM = 6


def proven(cases: Sequence[Case]) -> None:
    report = prove(cases)
    assert not report.found, "\n".join(f"{it.case.name}\n  {it}" for it in report.found)
    assert report.counts["policies"] == len(cases)


@pytest.mark.parametrize("platform", Platform)
def test_every_enforcer_is_equal_to_the_specification_for_every_packet_and_endpoint(platform: Platform) -> None:
    """P-0 LO-1 DHCP4-1 DHCP4-2 DHCP6-1 DHCP6-2 NDP-1 NDP-2 NDP-3 NDP-4 NDP-5 NDP-6 NDP-7 LAN-1 LAN-2 LAN-3 LAN-4 FWD-1
    API-1 API-2 DIS-1 DIS-2 CON-1 CON-2 CON-3 CTD-1 CTD-2 CTD-3 DSC-1 ERR-1 DNS-1 DNS-2 DNS-3 DNS-4 KS-1 MOB-1 MOB-2
    MOB-4: each is a sentence of tests/proofs/spec.py."""
    proven(list(grid(platform))[::SAMPLE])


@pytest.mark.parametrize("platform", Platform)
def test_other_values_of_the_endpoints_are_rendered_in_the_same_way(platform: Platform) -> None:
    proven(list(grid(platform, 1))[::1499])


@pytest.mark.parametrize("platform", [Platform.LINUX, Platform.MACOS, Platform.WINDOWS])
def test_endpoints_that_coincide_or_use_the_ports_of_dns_and_dhcp_make_no_difference(platform: Platform) -> None:
    proven(list(corners(platform, RANDOM))[::17])
