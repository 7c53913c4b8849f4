"""The facts for rendering, from `data/{images,capabilities,profiles}.toml`, and the user's lock file.

Read by `operations/bundles.py`, which hands them to `render/` inside an order. Nothing is kept here.
"""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

import msgspec

from sextant.base.errors import Misconfigured
from sextant.spec.engine_data import Traits, engines
from sextant.spec.rendering import Cell, Device, Facts, Image, Images, ProfileDefaults, Proof, Vendor

LOCK_LINE = re.compile(
    r"(?P<image>[^\s@]+:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})@(?P<digest>sha256:[0-9a-f]{64})"
)


class _Cells(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Cells written at once: every combination of the three lists."""

    vendors: tuple[Vendor, ...]
    engines: tuple[str, ...]
    modes: tuple[str, ...]
    proof: Proof
    reason: str = ""


def load_images(version: str, *, lock: str = "", lock_name: str = "", registry: str = "") -> Images:
    """The images that come with Sextant `version`, with the digests of the lock file's text `lock`.

    Raises Misconfigured naming the line of `lock` that is wrong, or that locks an image no bundle names."""
    known = {
        name: msgspec.convert({**entry, "name": name, "tag": entry["tag"].format(version=version)}, Image)
        for name, entry in _data("images.toml").items()
    }
    tagged = {image.tagged for image in known.values()}
    return Images(known=known, digests=_locked(lock, lock_name, tagged), registry=registry)


def load_facts() -> Facts:
    """Engines, devices, the capability matrix and models' traits, as they come with Sextant."""
    data = _data("capabilities.toml")
    cells: dict[tuple[str, str, str], Cell] = {}
    for written in msgspec.convert(data["cell"], tuple[_Cells, ...]):
        for key in itertools.product(written.vendors, written.engines, written.modes):
            cells.setdefault(
                key,
                Cell(vendor=key[0], engine=key[1], mode=key[2], proof=written.proof, reason=written.reason),
            )
    return Facts(
        engines=engines(),
        devices=msgspec.convert(data["device"], tuple[Device, ...]),
        cells=tuple(cells.values()),
        traits=msgspec.convert(data["traits"], dict[str, Traits]),
    )


def load_profile(name: str | None) -> ProfileDefaults:
    """What that industry changes; without a name, what holds for everyone."""
    if name is None:
        return ProfileDefaults()
    return msgspec.convert({**_data("profiles.toml")[name], "name": name}, ProfileDefaults)


def _locked(text: str, name: str, known: set[str]) -> Mapping[str, str]:
    digests: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        said = line.partition("#")[0].strip()
        if not said:
            continue
        found = LOCK_LINE.fullmatch(said)
        if found is None:
            raise Misconfigured(
                f"{name}:{number}: `{said}` locks no image; expected `repository:tag@sha256:` and "
                f"64 hexadecimal digits in lower case"
            )
        image, digest = found["image"], found["digest"]
        image = image if image in known else f"docker.io/{image}"
        if image not in known:
            raise Misconfigured(
                f"{name}:{number}: no bundle names the image `{found['image']}`; expected one of "
                f"{', '.join(sorted(known))}; delete the line or put its tag right"
            )
        if digests.setdefault(image, digest) != digest:
            raise Misconfigured(
                f"{name}:{number}: `{found['image']}` has another digest above; keep one of them"
            )
    return digests


def _data(name: str) -> dict[str, Any]:
    text = resources.files("sextant.spec").joinpath("data", name).read_text(encoding="utf-8")
    return tomllib.loads(text)
