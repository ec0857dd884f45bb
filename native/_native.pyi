"""The cffi module: built by _build_native.py, typed by its wrappers (cffi objects have no static types)."""

from typing import Any

ffi: Any
lib: Any
