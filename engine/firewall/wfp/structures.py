"""The Windows structures that filters travel in, and how a `Filter` becomes one. Importable on any platform.

Layouts as in fwptypes.h and fwpmtypes.h, 64 bit; tests/unit/firewall/test_wfp_layout.py compiles them against those of
mingw-w64. A structure points into others: whoever holds a `Marshalled` keeps all of them alive.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, Structure, Union, c_uint8, c_uint16, c_uint32, c_uint64, c_void_p, c_wchar_p
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Any
from uuid import UUID

from engine.firewall.wfp.constants import (
    PROVIDER_PERSISTENT,
    SUBLAYER_PERSISTENT,
    DataType,
    Field,
)
from engine.firewall.wfp.filters import Condition, Filter, Provider, Sublayer
from engine.policy import App


class GUID(Structure):
    """A GUID as Windows keeps it: three little-endian numbers and eight bytes."""

    _fields_ = (("Data1", c_uint32), ("Data2", c_uint16), ("Data3", c_uint16), ("Data4", c_uint8 * 8))


class FWP_BYTE_BLOB(Structure):
    """Bytes with their length."""

    _fields_ = (("size", c_uint32), ("data", POINTER(c_uint8)))


class FWP_V4_ADDR_AND_MASK(Structure):
    """An IPv4 network, in host byte order."""

    _fields_ = (("addr", c_uint32), ("mask", c_uint32))


class FWP_V6_ADDR_AND_MASK(Structure):
    """An IPv6 network."""

    _fields_ = (("addr", c_uint8 * 16), ("prefixLength", c_uint8))


class _Value(Union):
    _fields_ = (
        ("uint8", c_uint8),
        ("uint16", c_uint16),
        ("uint32", c_uint32),
        ("uint64", POINTER(c_uint64)),
        ("byteBlob", POINTER(FWP_BYTE_BLOB)),
        ("v4AddrMask", POINTER(FWP_V4_ADDR_AND_MASK)),
        ("v6AddrMask", POINTER(FWP_V6_ADDR_AND_MASK)),
    )


class FWP_VALUE0(Structure):
    """A value with its type; the same layout as FWP_CONDITION_VALUE0."""

    _anonymous_ = ("value",)
    _fields_ = (("type", c_uint32), ("value", _Value))


class FWPM_DISPLAY_DATA0(Structure):
    """What people see in `netsh wfp show filters`."""

    _fields_ = (("name", c_wchar_p), ("description", c_wchar_p))


class FWPM_FILTER_CONDITION0(Structure):
    """One condition."""

    _fields_ = (("fieldKey", GUID), ("matchType", c_uint32), ("conditionValue", FWP_VALUE0))


class FWPM_ACTION0(Structure):
    """What a matching filter does."""

    _fields_ = (("type", c_uint32), ("filterType", GUID))


class _Context(Union):
    _fields_ = (("rawContext", c_uint64), ("providerContextKey", GUID))


class FWPM_FILTER0(Structure):
    """One filter."""

    _anonymous_ = ("context",)
    _fields_ = (
        ("filterKey", GUID),
        ("displayData", FWPM_DISPLAY_DATA0),
        ("flags", c_uint32),
        ("providerKey", POINTER(GUID)),
        ("providerData", FWP_BYTE_BLOB),
        ("layerKey", GUID),
        ("subLayerKey", GUID),
        ("weight", FWP_VALUE0),
        ("numFilterConditions", c_uint32),
        ("filterCondition", POINTER(FWPM_FILTER_CONDITION0)),
        ("action", FWPM_ACTION0),
        ("context", _Context),
        ("reserved", POINTER(GUID)),
        ("filterId", c_uint64),
        ("effectiveWeight", FWP_VALUE0),
    )


class FWPM_PROVIDER0(Structure):
    """Whose objects they are."""

    _fields_ = (
        ("providerKey", GUID),
        ("displayData", FWPM_DISPLAY_DATA0),
        ("flags", c_uint32),
        ("providerData", FWP_BYTE_BLOB),
        ("serviceName", c_wchar_p),
    )


class FWPM_SUBLAYER0(Structure):
    """A sublayer."""

    _fields_ = (
        ("subLayerKey", GUID),
        ("displayData", FWPM_DISPLAY_DATA0),
        ("flags", c_uint32),
        ("providerKey", POINTER(GUID)),
        ("providerData", FWP_BYTE_BLOB),
        ("weight", c_uint16),
    )


class FWPM_SESSION0(Structure):
    """How the engine is opened."""

    _fields_ = (
        ("sessionKey", GUID),
        ("displayData", FWPM_DISPLAY_DATA0),
        ("flags", c_uint32),
        ("txnWaitTimeoutInMSec", c_uint32),
        ("processId", c_uint32),
        ("sid", c_void_p),
        ("username", c_wchar_p),
        ("kernelMode", ctypes.c_int32),
    )


@dataclass
class Marshalled:
    """A structure, and everything that it points to."""

    structure: Any
    kept: list[object] = field(default_factory=list)


def guid(value: UUID | str) -> GUID:
    """A UUID as Windows keeps it."""
    return GUID.from_buffer_copy(UUID(str(value)).bytes_le)


def marshal_provider(provider: Provider) -> Marshalled:
    """A provider as FWPM_PROVIDER0."""
    structure = FWPM_PROVIDER0(providerKey=guid(provider.key))
    structure.displayData.name = provider.name
    structure.flags = PROVIDER_PERSISTENT if provider.persistent else 0
    return Marshalled(structure)


def marshal_sublayer(sublayer: Sublayer) -> Marshalled:
    """A sublayer as FWPM_SUBLAYER0."""
    owner = guid(sublayer.provider)
    structure = FWPM_SUBLAYER0(subLayerKey=guid(sublayer.key), weight=sublayer.weight)
    structure.displayData.name = sublayer.name
    structure.flags = SUBLAYER_PERSISTENT if sublayer.persistent else 0
    structure.providerKey = ctypes.pointer(owner)
    return Marshalled(structure, [owner])


def marshal_filter(
    it: Filter, provider: UUID, luid_of: Callable[[str], int], app_ids: Callable[[App], bytes]
) -> Marshalled:
    """A filter as FWPM_FILTER0. `luid_of`: an interface's LUID by name; `app_ids`: the app id of an executable."""
    made = Marshalled(FWPM_FILTER0(filterKey=guid(it.key), layerKey=guid(it.layer), subLayerKey=guid(it.sublayer)))
    filter0, owner, weight = made.structure, guid(provider), c_uint64(it.weight)
    filter0.displayData.name = it.name
    filter0.displayData.description = it.rule
    filter0.flags = it.flags
    filter0.providerKey = ctypes.pointer(owner)
    filter0.weight.type = DataType.UINT64
    filter0.weight.uint64 = ctypes.pointer(weight)
    filter0.action.type = it.action
    conditions = (FWPM_FILTER_CONDITION0 * len(it.conditions))()
    made.kept += [owner, weight, conditions]
    for target, condition in zip(conditions, it.conditions, strict=True):
        target.fieldKey = guid(condition.field)
        target.matchType = condition.match
        made.kept.append(_put(target.conditionValue, condition, luid_of, app_ids))
    filter0.numFilterConditions = len(conditions)
    if it.conditions:
        filter0.filterCondition = ctypes.cast(conditions, POINTER(FWPM_FILTER_CONDITION0))
    return made


def _put(
    target: FWP_VALUE0, condition: Condition, luid_of: Callable[[str], int], app_ids: Callable[[App], bytes]
) -> object:
    """Write a condition's value with its type; returns what it points to."""
    value = condition.value
    kept: object = None
    if isinstance(value, App):
        data = app_ids(value)
        buffer = (c_uint8 * len(data)).from_buffer_copy(data)
        blob = FWP_BYTE_BLOB(len(data), ctypes.cast(buffer, POINTER(c_uint8)))
        target.type, target.byteBlob, kept = DataType.BYTE_BLOB, ctypes.pointer(blob), (blob, buffer)
    elif isinstance(value, str):
        luid = c_uint64(luid_of(value))
        target.type, target.uint64, kept = DataType.UINT64, ctypes.pointer(luid), luid
    elif isinstance(value, IPv4Network):
        four = FWP_V4_ADDR_AND_MASK(int(value.network_address), int(value.netmask))
        target.type, target.v4AddrMask, kept = DataType.V4_ADDR_MASK, ctypes.pointer(four), four
    elif isinstance(value, IPv6Network):
        six = FWP_V6_ADDR_AND_MASK((c_uint8 * 16)(*value.network_address.packed), value.prefixlen)
        target.type, target.v6AddrMask, kept = DataType.V6_ADDR_MASK, ctypes.pointer(six), six
    elif condition.field is Field.PROTOCOL:
        target.type, target.uint8 = DataType.UINT8, value
    elif condition.field is Field.FLAGS:
        target.type, target.uint32 = DataType.UINT32, value
    else:
        target.type, target.uint16 = DataType.UINT16, value
    return kept
