"""The WFP applier against a double of fwpuclnt.dll that keeps filters as Windows would, transactions and all."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any
from uuid import UUID

import pytest

from engine.firewall import FirewallError, wfp
from engine.firewall.wfp.apply import Wfp
from engine.firewall.wfp.constants import DataType, Field, Match
from engine.firewall.wfp.filters import Condition, Filter
from engine.firewall.wfp.structures import FWP_BYTE_BLOB, FWPM_FILTER0, GUID
from engine.policy import App, Platform, Policy, State
from tests.unit.firewall.golden import POLICIES, for_platform

WINDOWS = {name: for_platform(name, Platform.WINDOWS) for name in POLICIES}
EXECUTABLES = {App.SERVICE: r"C:\molehill\service.exe", App.PROBLEM_REPORT: r"C:\molehill\report.exe"}
LUID = 0x0006_0080_0000_0000
TUNNEL = "molehill0"


def uuid_of(value: GUID) -> UUID:
    return UUID(bytes_le=bytes(value))


class Windows:
    """fwpuclnt.dll as far as we use it. `fails`: the name of a call that says no, and with what."""

    def __init__(self, fails: str = "", code: int = 5) -> None:
        self.fails, self.code = fails, code
        self.calls: list[str] = []
        self.committed: dict[str, dict[UUID, Any]] = {"provider": {}, "sublayer": {}, "filter": {}}
        self.working = self.committed
        self.kept: list[object] = []

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            self.calls.append(name)
            if name == self.fails:
                return self.code
            method = getattr(type(self), f"on_{name}", None)
            return method(self, *arguments) if method else 0

        return call

    def on_FwpmTransactionBegin0(self, engine: Any, flags: Any) -> int:
        self.working = {kind: dict(objects) for kind, objects in self.committed.items()}
        return 0

    def on_FwpmTransactionCommit0(self, engine: Any) -> int:
        self.committed = self.working
        self.working = self.committed
        return 0

    def on_FwpmTransactionAbort0(self, engine: Any) -> int:
        self.working = self.committed
        return 0

    def _add(self, kind: str, key: UUID, it: Any) -> int:
        if key in self.working[kind]:
            return 0x80320009  # FWP_E_ALREADY_EXISTS
        self.working[kind][key] = it
        return 0

    def on_FwpmProviderAdd0(self, engine: Any, provider: Any, sd: Any) -> int:
        return self._add("provider", uuid_of(provider._obj.providerKey), provider._obj.flags)

    def on_FwpmSubLayerAdd0(self, engine: Any, sublayer: Any, sd: Any) -> int:
        it = sublayer._obj
        if uuid_of(it.providerKey.contents) not in self.working["provider"]:
            return 0x80320005
        return self._add("sublayer", uuid_of(it.subLayerKey), it.weight)

    def on_FwpmFilterAdd0(self, engine: Any, it: Any, sd: Any, number: Any) -> int:
        if uuid_of(it._obj.subLayerKey) not in self.working["sublayer"]:
            return 0x80320007
        owner = uuid_of(it._obj.providerKey.contents)
        return self._add("filter", uuid_of(it._obj.filterKey), (owner, read(it._obj)))

    def _delete(self, kind: str, key: Any, absent: int) -> int:
        return 0 if self.working[kind].pop(uuid_of(key._obj), None) is not None else absent

    def on_FwpmFilterDeleteByKey0(self, engine: Any, key: Any) -> int:
        return self._delete("filter", key, 0x80320003)

    def on_FwpmSubLayerDeleteByKey0(self, engine: Any, key: Any) -> int:
        return self._delete("sublayer", key, 0x80320007)

    def on_FwpmProviderDeleteByKey0(self, engine: Any, key: Any) -> int:
        return self._delete("provider", key, 0x80320005)

    def on_FwpmFilterCreateEnumHandle0(self, engine: Any, template: Any, handle: Any) -> int:
        self.cursor = list(self.working["filter"].items())  # within a transaction, its own view
        return 0

    def on_FwpmFilterEnum0(self, engine: Any, handle: Any, wanted: Any, entries: Any, count: Any) -> int:
        batch, self.cursor = self.cursor[: wanted.value], self.cursor[wanted.value :]
        pointers = (ctypes.POINTER(FWPM_FILTER0) * max(len(batch), 1))()
        for index, (key, (owner, _)) in enumerate(batch):
            it = FWPM_FILTER0(filterKey=GUID.from_buffer_copy(key.bytes_le))
            mine = GUID.from_buffer_copy(owner.bytes_le)
            it.providerKey = ctypes.pointer(mine)
            pointers[index] = ctypes.pointer(it)
            self.kept += [it, mine]
        self.kept.append(pointers)
        entries._obj.contents = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(FWPM_FILTER0))).contents
        count._obj.value = len(batch)
        return 0

    def on_FwpmGetAppIdFromFileName0(self, path: Any, blob: Any) -> int:
        data = path.value.lower().encode("utf-16-le")
        buffer = (ctypes.c_uint8 * len(data)).from_buffer_copy(data)
        made = FWP_BYTE_BLOB(len(data), ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint8)))
        self.kept += [buffer, made]
        blob._obj.contents = made
        return 0


def read(it: FWPM_FILTER0) -> Filter:
    """A structure back into the value it was made from."""
    conditions = tuple(_condition(it.filterCondition[index]) for index in range(it.numFilterConditions))
    return Filter(
        uuid_of(it.filterKey), it.displayData.name, it.displayData.description, wfp_layer(it),
        uuid_of(it.subLayerKey), it.weight.uint64.contents.value, it.action.type, conditions, it.flags,
    )  # type: ignore[arg-type]  # fmt: skip


def wfp_layer(it: FWPM_FILTER0) -> Any:
    return str(uuid_of(it.layerKey))


def _condition(it: Any) -> Condition:
    field, kind, value = Field(str(uuid_of(it.fieldKey))), it.conditionValue.type, it.conditionValue
    back: Any
    if kind == DataType.UINT8:
        back = value.uint8
    elif kind == DataType.UINT16:
        back = value.uint16
    elif kind == DataType.UINT32:
        back = value.uint32
    elif kind == DataType.UINT64:
        assert value.uint64.contents.value == LUID
        back = TUNNEL
    elif kind == DataType.V4_ADDR_MASK:
        four = value.v4AddrMask.contents
        back = IPv4Network((four.addr, str(IPv4Address(four.mask))))
    elif kind == DataType.V6_ADDR_MASK:
        six = value.v6AddrMask.contents
        back = IPv6Network((IPv6Address(bytes(six.addr)), six.prefixLength))
    else:
        assert kind == DataType.BYTE_BLOB
        blob = value.byteBlob.contents
        path = ctypes.string_at(blob.data, blob.size).decode("utf-16-le")
        back = next(app for app, executable in EXECUTABLES.items() if executable.lower() == path)
    return Condition(field, Match(it.matchType), back)


def machine(windows: Windows) -> Wfp:
    return Wfp(EXECUTABLES, windows, luid_of=lambda name: LUID)


@pytest.mark.parametrize("name", POLICIES)
def test_what_windows_gets_is_the_filter_set(name: str) -> None:
    windows = Windows()
    machine(windows).apply(WINDOWS[name])
    wanted = wfp.filters(WINDOWS[name])
    assert {key: it for key, (_, it) in windows.committed["filter"].items()} == {f.key: f for f in wanted.filters}
    assert windows.committed["sublayer"] == {s.key: s.weight for s in wanted.sublayers}
    assert set(windows.committed["provider"]) == {p.key for p in wanted.providers}


def test_a_change_is_one_transaction() -> None:
    windows = Windows()
    it = machine(windows)
    it.apply(WINDOWS["connecting"])
    windows.calls.clear()
    it.apply(WINDOWS["connected"])
    begin, commit = windows.calls.index("FwpmTransactionBegin0"), windows.calls.index("FwpmTransactionCommit0")
    for index, name in enumerate(windows.calls):
        if "Add0" in name or "Delete" in name:
            assert begin < index < commit
    assert windows.calls.count("FwpmTransactionBegin0") == 1


@pytest.mark.parametrize(
    "call", ["FwpmFilterAdd0", "FwpmSubLayerAdd0", "FwpmTransactionCommit0", "FwpmFilterDeleteByKey0"]
)
def test_a_refusal_leaves_the_former_filters(call: str) -> None:
    windows = Windows()
    it = machine(windows)
    it.apply(WINDOWS["error"])
    before = dict(windows.committed["filter"])
    windows.fails = call
    with pytest.raises(FirewallError, match=r"those from before stay in force.*administrator rights") as caught:
        it.apply(WINDOWS["connected"])
    assert caught.value.enforced
    assert windows.committed["filter"] == before


def test_a_refusal_of_the_first_filters_is_a_leak() -> None:
    with pytest.raises(FirewallError, match="none are in force, traffic may be leaking") as caught:
        machine(Windows(fails="FwpmTransactionCommit0")).apply(WINDOWS["error"])
    assert not caught.value.enforced


def test_a_lock_that_somebody_holds_is_named() -> None:
    windows = Windows(fails="FwpmTransactionBegin0", code=0x80320012)
    with pytest.raises(FirewallError, match="another program holds the lock"):
        machine(windows).apply(WINDOWS["error"])


def test_filters_that_are_not_there_afterwards_are_a_leak() -> None:
    windows = Windows(fails="FwpmFilterAdd0", code=0)  # says yes and does nothing
    with pytest.raises(FirewallError, match="may be leaking") as caught:
        machine(windows).apply(WINDOWS["error"])
    assert not caught.value.enforced


def test_disconnected_leaves_nothing_of_ours_and_everything_else() -> None:
    windows = Windows()
    foreign = UUID(int=1)
    windows.committed["filter"][foreign] = (UUID(int=2), None)
    it = machine(windows)
    it.apply(WINDOWS["connected"])
    it.apply(Policy(State.DISCONNECTED, Platform.WINDOWS))
    assert windows.committed == {"provider": {}, "sublayer": {}, "filter": {foreign: (UUID(int=2), None)}}


def test_a_service_that_stops_leaves_the_persistent_block_behind() -> None:
    windows = Windows()
    it = machine(windows)
    it.apply(WINDOWS["error"])
    it.keep_blocking()
    assert set(windows.committed["filter"]) == {f.key for f in wfp.persistent_filters().filters}
    it.apply(WINDOWS["connecting"])
    assert not set(windows.committed["filter"]) & {f.key for f in wfp.persistent_filters().filters}


def test_an_executable_that_nobody_named_is_an_error_and_not_a_wider_rule() -> None:
    with pytest.raises(FirewallError, match="executable of service"):
        Wfp({}, Windows(), luid_of=lambda name: LUID).apply(WINDOWS["connecting"])


def test_on_another_system_the_error_says_so() -> None:
    with pytest.raises(FirewallError, match="library of Windows"):
        Wfp(EXECUTABLES)
