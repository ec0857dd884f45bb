"""The package's copyright file: our licence, and the licence of each private copy. `copyright.py SITE-PACKAGES`."""

import sys
from importlib.metadata import Distribution, distributions

HEAD = """\
molehill
Copyright (c) 2026 the molehill developers
License: Apache-2.0, see /usr/share/common-licenses/Apache-2.0

/usr/lib/molehill has copies of these packages from https://pypi.org; the copyright notice and the whole licence of
each are in its folder NAME-VERSION.dist-info:
"""


def licence(package: Distribution) -> str:
    """What a package says of its licence, by the newest of the fields that it may say it in."""
    said = package.metadata.get_all("License-Expression") or [
        line.rpartition(" :: ")[2] for line in package.metadata.get_all("Classifier", []) if line.startswith("License")
    ]
    if not said:
        sys.exit(f"{package.name} does not say its licence")
    return ", ".join(said)


print(HEAD)
for package in sorted(distributions(path=[sys.argv[1]]), key=lambda package: package.name.lower()):
    if package.name != "molehill":
        print(f"  {package.name} {package.version}: {licence(package)}")
