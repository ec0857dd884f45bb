"""Documents of older versions brought up to date, one step a version.

A step is a module here, named for the versions it leads between, with one function from the old content to the new
one; `STEPS` lists them: `STEPS["settings"] = (v1_to_v2.step,)` leads from 1 to 2. A step never changes once released,
and each has a frozen document of its old version in tests/unit/daemon/frozen. So far there is only version 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Step = Callable[[Any], Any]

STEPS: Mapping[str, tuple[Step, ...]] = {"settings": (), "target": (), "relays": (), "addresses": ()}


def newest(kind: str, steps: Mapping[str, tuple[Step, ...]] = STEPS) -> int:
    """The version that is written."""
    return len(steps[kind]) + 1


def upgrade(kind: str, document: Any, steps: Mapping[str, tuple[Step, ...]] = STEPS) -> Any:
    """The content of a document, in the newest version's form. ValueError: it is none, or of a version to come."""
    if not isinstance(document, dict) or set(document) != {"version", kind}:
        raise ValueError(f"it must have a version and {kind}, and nothing else")
    version = document["version"]
    if type(version) is not int or version < 1:
        raise ValueError(f"its version must be a number from 1, not {version!r}")
    if version > newest(kind, steps):
        raise ValueError(f"its version {version} is of a newer molehill: this one knows {newest(kind, steps)}")
    content = document[kind]
    if content is None:  # it would count as "no file"
        raise ValueError(f"its {kind} must not be null")
    for step in steps[kind][version - 1 :]:
        try:
            content = step(content)
        except Exception as error:  # the document is not what its version says
            raise ValueError(f"it is no document of version {version}: {error!r}") from None
    return content
