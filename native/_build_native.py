"""Builds `native._native`, the one cffi (API mode) module, out of src/*.c and cdef/*.h.

What cffi may see of a C module stands in cdef/<module>.h; the sources never include Python.h, so the same
files also build into the sanitizer tests and the fuzz targets. Run this file to build in place:

    python native/_build_native.py
"""

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

# Warnings are the business of `make check`, which compiles src/ alone with -Wall -Wextra -Wconversion -Werror
# (cffi's generated code would not pass them).
CFLAGS = ["-std=c11", "-D_GNU_SOURCE", "-O3", "-g", "-fvisibility=hidden", "-fno-strict-aliasing"]


def _cdef() -> str:
    """All of cdef/ in name order, but audit.h and datapath.h last: they use the types of the others."""
    paths = sorted((HERE / "cdef").glob("*.h"), key=lambda path: (path.stem in ("audit", "datapath"), path.name))
    return "\n".join(path.read_text() for path in paths)


def _includes() -> str:
    return "\n".join(f'#include "{path.name}"' for path in sorted((HERE / "src").glob("*.h")))


ffibuilder = FFI()
ffibuilder.cdef(_cdef())
ffibuilder.set_source(
    "native._native",
    _includes(),
    sources=[str(path.relative_to(ROOT)) for path in sorted((HERE / "src").glob("*.c"))],
    include_dirs=[str(HERE / "src")],
    libraries=["crypto", "pthread"],
    extra_compile_args=CFLAGS,
    py_limited_api=True,
)

if __name__ == "__main__":
    import os

    os.chdir(ROOT)
    ffibuilder.compile(tmpdir=str(ROOT), verbose=False)
