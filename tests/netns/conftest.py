"""Skip where namespaces cannot be made, with the reason; a namespace for tests that need just one."""

import ctypes
import os
from collections.abc import Iterator

import pytest

from engine.leaklab.rights import why_not
from tests.netns.lab import CLONE_NEWNET, libc


@pytest.fixture
def namespace() -> Iterator[None]:
    """A fresh network namespace for this thread and the threads and processes it starts."""
    former = os.open("/proc/self/ns/net", os.O_RDONLY)
    if libc.unshare(CLONE_NEWNET) != 0:
        os.close(former)
        pytest.skip(f"no network namespace can be made here: {os.strerror(ctypes.get_errno())}")
    yield
    assert libc.setns(former, CLONE_NEWNET) == 0
    os.close(former)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not("wg") or ("" if os.geteuid() == 0 else "not root: run with sudo, or inside `unshare -Urnm`")
    for item in items:
        if "netns" in item.keywords and reason:
            item.add_marker(pytest.mark.skip(reason=reason))
