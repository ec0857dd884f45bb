"""The few kernel switches that capturing needs, and their way back.

* `net.ipv4.conf.all.src_valid_mark` = 1: the reverse-path check honours marks.
* `net.ipv4.conf.all.rp_filter` = 2 where some interface has 1 (strict): to a strict check the relay's answers,
  arriving outside the tunnel, have come the wrong way. Loose still refuses sources that have no route.
* `net.ipv4.conf.all.arp_ignore` = 2 unless it is higher: an interface answers ARP for its own addresses only. Linux
  would tell anyone on the LAN who asks around which address the tunnel has (audit MLLVD-CR-24-03).
* The TUN: no address and no router solicitation of the kernel's own.

The former values are kept in a file from before the first change until they are restored, so that the start
after a crash knows the true ones. The file's name holds the network namespace, whose switches these are.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from pathlib import Path

from engine.host.runfile import of_this_namespace

log = logging.getLogger(__name__)

_NET = Path("/proc/sys/net")
_SRC_VALID_MARK = "ipv4/conf/all/src_valid_mark"
_RP_FILTER = "ipv4/conf/all/rp_filter"
_ARP_IGNORE = "ipv4/conf/all/arp_ignore"
_STRICT, _LOOSE = "1", "2"


def has_ipv6(interface: str = "") -> bool:
    """Whether the kernel speaks IPv6 at all, or on the interface."""
    if not interface:
        return os.path.isdir(f"{_NET}/ipv6")
    return _read(f"ipv6/conf/{interface}/disable_ipv6") == "0"


def prepare() -> None:
    """Set what capturing needs; a switch that cannot be set is logged: it lets less through, never more."""
    wanted = {_SRC_VALID_MARK: "1"}
    interfaces = os.listdir(_NET / "ipv4/conf") if (_NET / "ipv4/conf").is_dir() else []
    if any(_read(f"ipv4/conf/{interface}/rp_filter") == _STRICT for interface in interfaces):
        wanted[_RP_FILTER] = _LOOSE
    if (_read(_ARP_IGNORE) or "0") in ("0", "1"):
        wanted[_ARP_IGNORE] = "2"
    former = {name: _read(name) for name, value in wanted.items() if _read(name) != value}
    if former:
        saved = _saved()
        _write_saved({**former, **saved})  # what an earlier run found is the truth
    for name in former:
        _write(name, wanted[name])


def quiet_interface(interface: str) -> None:
    """Keep the kernel from talking on the TUN by itself."""
    if has_ipv6(interface):
        for name, value in (("addr_gen_mode", "1"), ("accept_ra", "0")):
            if _read(f"ipv6/conf/{interface}/{name}") != value:
                _write(f"ipv6/conf/{interface}/{name}", value)


def restore() -> None:
    """Put the former values back."""
    for name, value in _saved().items():
        if value is not None:
            _write(name, value)
    _file().unlink(missing_ok=True)


def _file() -> Path:
    return of_this_namespace("sysctl", "json")


def _saved() -> dict[str, str | None]:
    try:
        saved = json.loads(_file().read_text())
    except (OSError, ValueError):
        return {}
    return saved if isinstance(saved, dict) else {}


def _write_saved(values: dict[str, str | None]) -> None:
    path = _file()
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        path.with_suffix(".new").write_text(json.dumps(values))
        path.with_suffix(".new").replace(path)
    except OSError as error:
        log.warning("the former kernel switches cannot be kept in %s: %s", path, error)


def _read(name: str) -> str | None:
    """The switch; None: there is none here. OSError: it cannot be said now, for want of descriptors."""
    try:
        file = os.open(f"{_NET}/{name}", os.O_RDONLY | os.O_CLOEXEC)  # a change of state waits for a dozen of these
        try:
            return os.read(file, 64).decode().strip()
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in (errno.EMFILE, errno.ENFILE):
            raise
        return None


def _write(name: str, value: str) -> None:
    try:
        (_NET / name).write_text(value)
    except OSError as error:
        log.warning("the kernel switch net.%s stays as it is: %s", name.replace("/", "."), error)
