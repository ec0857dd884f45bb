"""Skip where namespaces cannot be made, with the reason."""

import os

import pytest

from engine.leaklab.rights import why_not


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reason = why_not("wg") or ("" if os.geteuid() == 0 else "not root: run with sudo, or inside `unshare -Urnm`")
    for item in items:
        if "netns" in item.keywords and reason:
            item.add_marker(pytest.mark.skip(reason=reason))
