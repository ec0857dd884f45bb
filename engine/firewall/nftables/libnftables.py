"""The few functions of libnftables(3) that we call, by ctypes; `nft -j -f -` where the library is missing.

A context is made for each command and freed after it: contexts are not thread-safe, and a context holds a netlink
socket of the network namespace it was made in. So `run` may be called from any thread, and acts in the namespace
of the calling thread.
"""

from __future__ import annotations

import ctypes
import socket
import subprocess
from pathlib import Path

_LIBRARY = "libnftables.so.1"
_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON: JSON in as well
# Absolute, so that nobody's PATH decides what runs as root.
_NFT = (Path("/usr/sbin/nft"), Path("/sbin/nft"), Path("/usr/bin/nft"))
_TIMEOUT = 30.0
_NETLINK_NETFILTER = 12  # linux/netlink.h


class NftError(Exception):
    """nftables refused a command, or cannot be reached; the text is its own."""


class NftMissing(NftError):
    """There is no nftables here: no program to talk to it, or nothing in the kernel."""


def run(command: str, *, library: bool = True) -> str:
    """Run one JSON document (or one line of nft's language) as root and return the output. Raises NftError."""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError as error:  # libnftables would end the whole process
        raise NftMissing(f"the kernel has no netfilter: {error.strerror}") from error
    loaded = _load() if library else None
    return _run_by_library(loaded, command) if loaded else _run_by_tool(command)


def _load() -> ctypes.CDLL | None:
    try:
        nft = ctypes.CDLL(_LIBRARY)
    except OSError:
        return None
    nft.nft_ctx_new.restype = ctypes.c_void_p
    nft.nft_ctx_new.argtypes = [ctypes.c_uint32]
    nft.nft_ctx_output_set_flags.restype = None
    nft.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
        getattr(nft, name).restype = ctypes.c_int
        getattr(nft, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(nft, name).restype = ctypes.c_char_p
        getattr(nft, name).argtypes = [ctypes.c_void_p]
    nft.nft_run_cmd_from_buffer.restype = ctypes.c_int
    nft.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    nft.nft_ctx_free.restype = None
    nft.nft_ctx_free.argtypes = [ctypes.c_void_p]
    return nft


def _run_by_library(nft: ctypes.CDLL, command: str) -> str:
    context = nft.nft_ctx_new(0)
    if not context:
        raise NftError("libnftables gives no context")
    try:
        nft.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
        if nft.nft_ctx_buffer_output(context) or nft.nft_ctx_buffer_error(context):
            raise NftError("libnftables cannot keep its output")
        failed = nft.nft_run_cmd_from_buffer(context, command.encode())
        output = (nft.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
        error = (nft.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace")
    finally:
        nft.nft_ctx_free(context)
    if failed:
        raise NftError(_first_line(error) or "libnftables gives no reason")
    return output


def _run_by_tool(command: str) -> str:
    tool = next((path for path in _NFT if path.exists()), None)
    if tool is None:
        raise NftMissing("neither libnftables nor nft is installed (Debian: nftables)")
    try:
        done = subprocess.run(
            [str(tool), "-j", "-f", "-"], input=command, capture_output=True, text=True, check=False, timeout=_TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NftError(f"{tool}: {error}") from error
    if done.returncode != 0:
        raise NftError(_first_line(done.stderr) or f"{tool} exited {done.returncode}")
    return done.stdout


def _first_line(text: str) -> str:
    return next((line.strip() for line in text.splitlines() if line.strip()), "")
