"""Names of the Windows Filtering Platform that the filter set uses: GUIDs and enumeration values.

From fwpmu.h, fwpmtypes.h and fwptypes.h of the Windows SDK; tests/unit/firewall/test_wfp_layout.py holds them against
independent copies of those headers. The GUIDs at the end are our own.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag, StrEnum
from uuid import UUID


class Layer(StrEnum):
    """Where filters stand: flows are authorized at the ALE layers, forwarded packets pass the IPFORWARD layers."""

    CONNECT_V4 = "c38d57d1-05a7-4c33-904f-7fbceee60e82"  # FWPM_LAYER_ALE_AUTH_CONNECT_V4
    CONNECT_V6 = "4a72393b-319f-44bc-84c3-ba54dcb3b6b4"  # FWPM_LAYER_ALE_AUTH_CONNECT_V6
    ACCEPT_V4 = "e1cd9fe7-f4b5-4273-96c0-592e487b8650"  # FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V4
    ACCEPT_V6 = "a3b42c97-9f04-4672-b87e-cee9c483257f"  # FWPM_LAYER_ALE_AUTH_RECV_ACCEPT_V6
    FORWARD_V4 = "a82acc24-4ee1-4ee1-b465-fd1d25cb10a4"  # FWPM_LAYER_IPFORWARD_V4
    FORWARD_V6 = "7b964818-19c7-493a-b71f-832c3684d28c"  # FWPM_LAYER_IPFORWARD_V6


class Field(StrEnum):
    """What a condition looks at. Local and remote are seen from this machine, whichever way the flow goes."""

    LOCAL_ADDRESS = "d9ee00de-c1ef-4617-bfe3-ffd8f5a08957"  # FWPM_CONDITION_IP_LOCAL_ADDRESS
    REMOTE_ADDRESS = "b235ae9a-1d64-49b8-a44c-5ff3d9095045"  # FWPM_CONDITION_IP_REMOTE_ADDRESS
    LOCAL_PORT = "0c1ba1af-5765-453f-af22-a8f791ac775b"  # FWPM_CONDITION_IP_LOCAL_PORT, or the ICMP type
    REMOTE_PORT = "c35a604d-d22b-4e1a-91b4-68f674ee674b"  # FWPM_CONDITION_IP_REMOTE_PORT, or the ICMP code
    PROTOCOL = "3971ef2b-623e-4f9a-8cb1-6e79b806b9a7"  # FWPM_CONDITION_IP_PROTOCOL
    INTERFACE = "4cd62a49-59c3-4969-b7f3-bda5d32890a4"  # FWPM_CONDITION_IP_LOCAL_INTERFACE
    APP_ID = "d78e1e87-8644-4ea5-9437-d809ecefc971"  # FWPM_CONDITION_ALE_APP_ID
    FLAGS = "632ce23b-5167-435c-86d7-e903684aa80c"  # FWPM_CONDITION_FLAGS


class Match(IntEnum):
    """FWP_MATCH_TYPE, the ones we use."""

    EQUAL = 0
    FLAGS_ALL_SET = 6
    NOT_EQUAL = 10


class Action(IntEnum):
    """FWP_ACTION_TYPE: both terminate the search in their sublayer (FWP_ACTION_FLAG_TERMINATING)."""

    BLOCK = 0x1001
    PERMIT = 0x1002


class DataType(IntEnum):
    """FWP_DATA_TYPE, the ones we use."""

    UINT8 = 1
    UINT16 = 2
    UINT32 = 3
    UINT64 = 4
    BYTE_BLOB = 12
    V4_ADDR_MASK = 0x100
    V6_ADDR_MASK = 0x101


class FilterFlag(IntFlag):
    """FWPM_FILTER_FLAG_*. CLEAR_ACTION_RIGHT: the block is hard, no other sublayer's permit lifts it."""

    NONE = 0
    PERSISTENT = 1
    BOOTTIME = 2
    CLEAR_ACTION_RIGHT = 8


PROVIDER_PERSISTENT = 1  # FWPM_PROVIDER_FLAG_PERSISTENT
SUBLAYER_PERSISTENT = 1  # FWPM_SUBLAYER_FLAG_PERSISTENT
IS_LOOPBACK = 1  # FWP_CONDITION_FLAG_IS_LOOPBACK

# Ours. Filters' keys are made from the provider's key and the filter's name (RFC 4122 version 5).
PROVIDER = UUID("1fa1d1b5-4c0e-4b6e-9d0a-6d6f6c656869")
SUBLAYER_BASELINE = UUID("2fa1d1b5-4c0e-4b6e-9d0a-6d6f6c656869")
SUBLAYER_DNS = UUID("3fa1d1b5-4c0e-4b6e-9d0a-6d6f6c656869")
PERSISTENT_PROVIDER = UUID("4fa1d1b5-4c0e-4b6e-9d0a-6d6f6c656869")
PERSISTENT_SUBLAYER = UUID("5fa1d1b5-4c0e-4b6e-9d0a-6d6f6c656869")
