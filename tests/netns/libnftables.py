"""libnftables(3), by ctypes: the witness that reads and writes nft's language, where starting `nft` takes too long."""

from __future__ import annotations

import ctypes

_OUTPUT_JSON = 1 << 4  # NFT_CTX_OUTPUT_JSON: JSON in as well


def run(command: str) -> str:
    """Run one JSON document, or one line of nft's language, in this thread's namespace; the output. RuntimeError."""
    nft = _library()
    context = nft.nft_ctx_new(0)
    try:
        nft.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
        nft.nft_ctx_buffer_output(context)
        nft.nft_ctx_buffer_error(context)
        if nft.nft_run_cmd_from_buffer(context, command.encode()):
            raise RuntimeError((nft.nft_ctx_get_error_buffer(context) or b"").decode(errors="replace"))
        return (nft.nft_ctx_get_output_buffer(context) or b"").decode(errors="replace")
    finally:
        nft.nft_ctx_free(context)


def _library() -> ctypes.CDLL:
    nft = ctypes.CDLL("libnftables.so.1")
    nft.nft_ctx_new.restype = ctypes.c_void_p
    nft.nft_ctx_new.argtypes = [ctypes.c_uint32]
    nft.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    nft.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error", "nft_ctx_free"):
        getattr(nft, name).argtypes = [ctypes.c_void_p]
    for name in ("nft_ctx_get_output_buffer", "nft_ctx_get_error_buffer"):
        getattr(nft, name).restype = ctypes.c_char_p
        getattr(nft, name).argtypes = [ctypes.c_void_p]
    return nft
