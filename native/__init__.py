"""The cffi module and its thin checked wrappers.

Importing it chooses the AEAD kernel (native/src/aead.c): an ImportError here says that MOLEHILL_AEAD asks for one
that cannot be had, a RuntimeWarning that a kernel failed its self-test and libcrypto or another takes its place.
"""

import warnings

from native._native import ffi as _ffi
from native._native import lib as _lib

_complaint = _lib.mh_aead_complaint()
if _lib.mh_aead_kernel() == _ffi.NULL:
    raise ImportError(_ffi.string(_complaint).decode())
if _complaint != _ffi.NULL:
    warnings.warn(_ffi.string(_complaint).decode(), RuntimeWarning, stacklevel=2)
