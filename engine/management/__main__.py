"""The interface as JSON Schema: `python -m engine.management > docs/management.schema.json`."""

import json

from engine.management.schema import json_schema


def text() -> str:
    """The file's content."""
    return json.dumps(json_schema(), indent=1) + "\n"


if __name__ == "__main__":
    print(text(), end="")
