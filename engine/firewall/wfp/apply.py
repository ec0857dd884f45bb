"""`Wfp`: puts a filter set in force on this machine, in one transaction. Never run on a real Windows yet
(docs/known-issues.md); the calls and their order are held by a double of the library in the tests.

Order of events, all within one transaction: delete every filter, sublayer and provider of ours -> add the new ones ->
commit -> read our filters back. The session is not dynamic: filters outlive the process (KS-1). Whoever else holds the
transaction lock is waited for 5 seconds. Needs the rights of an administrator. One thread at a time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from ctypes import POINTER, byref, c_uint32, c_uint64, c_void_p
from typing import Any
from uuid import UUID

from engine.firewall.errors import FirewallError, refused
from engine.firewall.wfp.constants import (
    PERSISTENT_PROVIDER,
    PERSISTENT_SUBLAYER,
    PROVIDER,
    SUBLAYER_BASELINE,
    SUBLAYER_DNS,
)
from engine.firewall.wfp.filters import FilterSet, filters, persistent_filters
from engine.firewall.wfp.structures import (
    FWP_BYTE_BLOB,
    FWPM_FILTER0,
    FWPM_SESSION0,
    GUID,
    guid,
    marshal_filter,
    marshal_provider,
    marshal_sublayer,
)
from engine.policy import App, Policy

_LOCK_TIMEOUT_MS = 5000
_AUTHN_DEFAULT = 0xFFFFFFFF  # RPC_C_AUTHN_DEFAULT
_BATCH = 100
# FWP_E_{FILTER,PROVIDER,SUBLAYER}_NOT_FOUND: nothing of ours was there.
_NOT_FOUND = (0x80320003, 0x80320005, 0x80320007)
_TIMEOUT = 0x80320012  # FWP_E_TIMEOUT
_ACCESS_DENIED = 5


class Wfp:
    """This machine's filter engine.

    * `executables`: path of each of our executables, by App; a filter for one that is not there cannot be made.
    * `library`, `luid_of`: fwpuclnt.dll and the lookup of an interface's LUID by its alias (Windows' own by default).
    """

    def __init__(
        self,
        executables: Mapping[App, str],
        library: Any | None = None,
        luid_of: Callable[[str], int] | None = None,
    ) -> None:
        self._executables = dict(executables)
        self._fw = library if library is not None else _windows_library("fwpuclnt.dll")
        self._luid_of = luid_of or _luid_of
        self._engine = c_void_p()
        session = FWPM_SESSION0(txnWaitTimeoutInMSec=_LOCK_TIMEOUT_MS)
        session.displayData.name = "molehill"
        try:
            self._call("FwpmEngineOpen0", None, c_uint32(_AUTHN_DEFAULT), None, byref(session), byref(self._engine))
        except OSError as error:
            raise FirewallError(f"the Windows filter engine cannot be opened: {error}", enforced=False) from error

    def apply(self, policy: Policy) -> None:
        """Put `policy` in force; Disconnected removes everything of ours. Raises FirewallError, ValueError."""
        self._replace(filters(policy))

    def keep_blocking(self) -> None:
        """Leave the boot-time and persistent block-all behind, for when no service runs (BOOT-1, EXIT-1)."""
        self._replace(persistent_filters())

    def close(self) -> None:
        """Close the engine; what is in force stays."""
        if self._engine:
            self._fw.FwpmEngineClose0(self._engine)
            self._engine = c_void_p()

    def _replace(self, new: FilterSet) -> None:
        try:
            self._call("FwpmTransactionBegin0", self._engine, c_uint32(0))
            try:
                self._delete_ours()
                self._add(new)
                self._call("FwpmTransactionCommit0", self._engine)
            except BaseException:
                self._fw.FwpmTransactionAbort0(self._engine)
                raise
        except OSError as error:
            raise refused("Windows", error, former=self._filters_are_there()) from error
        try:
            missing = {f.key for f in new.filters} ^ set(self._our_filters())
        except OSError as error:
            raise FirewallError(
                f"the filters were loaded but cannot be read back, traffic may be leaking: {error}", enforced=False
            ) from error
        if missing:
            raise FirewallError(
                f"Windows does not hold the filters that were sent ({len(missing)} differ), traffic may be leaking",
                enforced=False,
            )

    def _filters_are_there(self) -> bool:
        try:
            return bool(self._our_filters())
        except OSError:
            return False

    def _delete_ours(self) -> None:
        for key in self._our_filters():
            self._call("FwpmFilterDeleteByKey0", self._engine, byref(guid(key)), absent_is_fine=True)
        for key in (SUBLAYER_BASELINE, SUBLAYER_DNS, PERSISTENT_SUBLAYER):
            self._call("FwpmSubLayerDeleteByKey0", self._engine, byref(guid(key)), absent_is_fine=True)
        for key in (PROVIDER, PERSISTENT_PROVIDER):
            self._call("FwpmProviderDeleteByKey0", self._engine, byref(guid(key)), absent_is_fine=True)

    def _add(self, new: FilterSet) -> None:
        providers = {sublayer.key: sublayer.provider for sublayer in new.sublayers}
        for provider in new.providers:
            self._call("FwpmProviderAdd0", self._engine, byref(marshal_provider(provider).structure), None)
        for sublayer in new.sublayers:
            made = marshal_sublayer(sublayer)
            self._call("FwpmSubLayerAdd0", self._engine, byref(made.structure), None)
        for it in new.filters:
            made = marshal_filter(it, providers[it.sublayer], self._luid_of, self._app_id)
            self._call("FwpmFilterAdd0", self._engine, byref(made.structure), None, byref(c_uint64()))

    def _our_filters(self) -> list[UUID]:
        """The keys of every filter of our providers."""
        found: list[UUID] = []
        handle = c_void_p()
        self._call("FwpmFilterCreateEnumHandle0", self._engine, None, byref(handle))
        try:
            while True:
                entries, count = POINTER(POINTER(FWPM_FILTER0))(), c_uint32()
                self._call("FwpmFilterEnum0", self._engine, handle, c_uint32(_BATCH), byref(entries), byref(count))
                for index in range(count.value):
                    it = entries[index].contents
                    if it.providerKey and _uuid(it.providerKey.contents) in (PROVIDER, PERSISTENT_PROVIDER):
                        found.append(_uuid(it.filterKey))
                self._fw.FwpmFreeMemory0(byref(entries))
                if count.value < _BATCH:
                    return found
        finally:
            self._fw.FwpmFilterDestroyEnumHandle0(self._engine, handle)

    def _app_id(self, app: App) -> bytes:
        """The app id of one of our executables. OSError: it is not there, so nothing would be let out for it."""
        path = self._executables.get(app)
        if path is None:
            raise OSError(f"nobody said where the executable of {app} is")
        blob = POINTER(FWP_BYTE_BLOB)()
        self._call("FwpmGetAppIdFromFileName0", ctypes.c_wchar_p(path), byref(blob))
        try:
            return bytes(ctypes.string_at(blob.contents.data, blob.contents.size))
        finally:
            self._fw.FwpmFreeMemory0(byref(blob))

    def _call(self, name: str, *arguments: object, absent_is_fine: bool = False) -> None:
        code = getattr(self._fw, name)(*arguments) & 0xFFFFFFFF
        if code == 0 or (absent_is_fine and code in _NOT_FOUND):
            return
        meaning = {_TIMEOUT: "another program holds the lock", _ACCESS_DENIED: "administrator rights are needed"}
        raise OSError(f"{name}: {meaning.get(code, f'error {code:#010x}')}")


def _uuid(value: GUID) -> UUID:
    return UUID(bytes_le=bytes(value))


def _windows_library(name: str) -> Any:
    load = getattr(ctypes, "WinDLL", None)
    if load is None:
        raise FirewallError(f"{name} is a library of Windows, this is another system", enforced=False)
    return load(name)


def _luid_of(alias: str) -> int:
    luid = c_uint64()
    code = _windows_library("iphlpapi.dll").ConvertInterfaceAliasToLuid(ctypes.c_wchar_p(alias), byref(luid))
    if code:
        raise OSError(f"there is no interface {alias!r} (error {code})")
    return luid.value
