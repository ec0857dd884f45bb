"""The kernel settings that belong to the rules: they cannot be said in nftables.

* `arp_ignore` 2: no ARP answer for the tunnel's address on another interface (a neighbour could learn it, with
  CVE-2019-14899); raised while there is a tunnel or may be one, never lowered, and never above what is there.
* `src_valid_mark` 1: the reverse-path filter looks a packet up with its mark, which the prerouting chain gave the
  first hop's answers; without it a strict filter drops them.

They are not enforcement: a failure is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from engine.policy import Policy, State

_ROOT = Path("/proc/sys/net/ipv4/conf/all")


def settings_for(policy: Policy) -> dict[str, int]:
    """The least value of each setting under /proc/sys/net/ipv4/conf/all while `policy` is in force."""
    if policy.enforced in (State.CONNECTING, State.CONNECTED):
        return {"arp_ignore": 2, "src_valid_mark": 1}
    return {}


def apply(settings: Mapping[str, int], root: Path = _ROOT) -> list[str]:
    """Raise each setting to its least value where it is lower; one sentence for each that could not be."""
    warnings = []
    for name, least in settings.items():
        try:
            if int((root / name).read_text()) < least:
                (root / name).write_text(f"{least}\n")
        except (OSError, ValueError) as error:
            warnings.append(f"could not set {root / name} to {least}: {error}")
    return warnings
