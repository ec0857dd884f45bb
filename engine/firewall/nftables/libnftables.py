"""The few functions of libnftables(3) that we call, by ctypes; `nft -j -f -` where the library is missing.

A `Context` belongs to one thread, and to the network namespace in which that thread used it first: it holds a netlink
socket, and closing that waits until the kernel has freed all that was replaced. Kept, it takes a fifth of the time for
a command. `run` makes one for each command, so it may be called from any thread, and acts in the namespace of that
thread.
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


def run(command: str) -> str:
    """Run one JSON document (or one line of nft's language) as root and return the output. Raises NftError."""
    context = Context()
    try:
        return context.run(command)
    finally:
        context.close()


class Context:
    """Runs commands, all from one thread and in one network namespace."""

    def __init__(self) -> None:
        self._nft: ctypes.CDLL | None = None
        self._context = 0

    def run(self, command: str) -> str:
        """As the function `run`."""
        if not self._context:
            _check_netfilter()
            self._nft = _load()
            if self._nft is None:
                return run_by_tool(command)
            self._context = _new_context(self._nft)
        assert self._nft is not None
        failed = self._nft.nft_run_cmd_from_buffer(self._context, command.encode())
        output = (self._nft.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
        error = (self._nft.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
        if failed:
            self.close()  # the next one begins with a new context, whatever was the matter with this
            raise NftError(_first_line(error) or "libnftables gives no reason")
        return output

    def close(self) -> None:
        """Free it; the next command makes a new one."""
        if self._nft is not None and self._context:
            self._nft.nft_ctx_free(self._context)
        self._context = 0


def _check_netfilter() -> None:
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER).close()
    except OSError as error:  # libnftables would end the whole process
        raise NftMissing(f"the kernel has no netfilter: {error.strerror}") from error


def _new_context(nft: ctypes.CDLL) -> int:
    context = nft.nft_ctx_new(0)
    if not context:
        raise NftError("libnftables gives no context")
    nft.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
    if nft.nft_ctx_buffer_output(context) or nft.nft_ctx_buffer_error(context):
        nft.nft_ctx_free(context)
        raise NftError("libnftables cannot keep its output")
    return int(context)


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


def run_by_tool(command: str) -> str:
    """As `run`, by the program nft."""
    _check_netfilter()
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
