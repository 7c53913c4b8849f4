"""`sextant version`."""

from __future__ import annotations

import platform

import sextant
from sextant.cli.options import Json
from sextant.cli.output import print_json


def version(json: Json = False) -> None:
    """Print the versions of Sextant, Python and the embedded engine."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    try:
        engine = installed("xllamacpp")
    except PackageNotFoundError:
        engine = "missing"
    found = {"sextant": sextant.__version__, "python": platform.python_version(), "xllamacpp": engine}
    if json:
        print_json(found)
        return
    print(", ".join(f"{name} {number}" for name, number in found.items()))
