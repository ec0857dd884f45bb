"""The no-crypto test build: our own datapath with the AEAD replaced by a no-op, as the ceiling to compare with.

The sources are copied to build/nocrypto, bench/nocrypto/aead_null.c takes the place of native/src/aead.c, and the
native module is built there. The shipped module is never touched. Nothing is done when no source has changed.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET = ROOT / "build" / "nocrypto"
PARTS = ("engine", "native", "tun")
NULL_AEAD = ROOT / "bench" / "nocrypto" / "aead_null.c"


def _fingerprint() -> str:
    files = [NULL_AEAD, *(path for part in PARTS for path in (ROOT / part).rglob("*.[chp]*"))]
    sources = sorted(path for path in files if path.suffix in {".c", ".h", ".py"} and path.name != "_native.c")
    digest = hashlib.sha256()
    for path in sources:
        digest.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


def build() -> Path:
    """Build when something has changed; returns the folder to put first on PYTHONPATH."""
    stamp, fingerprint = TARGET / "stamp", _fingerprint()
    if stamp.is_file() and stamp.read_text() == fingerprint:
        return TARGET
    shutil.rmtree(TARGET, ignore_errors=True)
    for part in PARTS:
        shutil.copytree(
            ROOT / part, TARGET / part, ignore=shutil.ignore_patterns("*.so", "*.o", "_native.c", "__pycache__")
        )
    shutil.copy(NULL_AEAD, TARGET / "native" / "src" / "aead.c")
    done = subprocess.run(
        [sys.executable, "native/_build_native.py"], cwd=TARGET, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise RuntimeError(f"the no-crypto build failed:\n{done.stderr[-3000:]}")
    stamp.write_text(fingerprint)
    return TARGET
