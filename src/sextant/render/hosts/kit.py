"""The air-gapped kit: what a connected machine collects, how it is signed, and how the closed one takes it.

`collect.sh` fills wheels/, models/, weights/ and images/ beside the bundle's files and writes SHA256SUMS;
`sign.sh` signs that list with ed25519; `install-offline.sh` verifies it and installs without any network.
Checksums of what is fetched are known only once it was fetched, so none are made up here.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from sextant.render.dumping import script_file, text_file
from sextant.render.hosts.documents import HUBS
from sextant.render.hosts.places import Ground
from sextant.spec.bundle import File, Step
from sextant.spec.engine_sections import RemoteEngine


class Kit(msgspec.Struct, frozen=True, kw_only=True):
    """What must be brought along."""

    images: tuple[str, ...] = ()
    """References of container images."""
    weights_folder: str = ""
    """Where weights of launched engines go on the server; empty: none."""
    platforms: tuple[str, ...] = ()
    """Wheel platforms of the server; empty: those of the machine that collects."""


def kit_files(ground: Ground, kit: Kit) -> tuple[File, ...]:
    """The lists and scripts of the kit."""
    collected = f"images_list='{' '.join(kit.images)}'\nplatforms='{' '.join(kit.platforms)}'\n"
    taken = f"weights_folder='{kit.weights_folder}'\n"
    weights = [
        f"{served.key} {served.entry.source or served.entry.name} {served.weights_bytes}"
        for served in ground.order.served
        if not isinstance(served.entry.engine, RemoteEngine)
    ]
    return (
        text_file(
            "kit/images.txt",
            "\n".join(("# Container images, with the digests that were locked.", *kit.images)),
        ),
        text_file("kit/weights.txt", "\n".join(("# Model, source, bytes on disk (0: not known).", *weights))),
        text_file("kit/wheels.txt", f"# For pip.\nsextant-llm=={ground.order.version}"),
        script_file(
            "collect.sh", _SOURCES + collected + _COLLECT.replace("@PULLS@", "\n".join(_pulls(ground)))
        ),
        script_file("sign.sh", _SIGN),
        script_file("install-offline.sh", _SOURCES + taken + _OFFLINE),
    )


def offline_steps(*, signed: bool) -> tuple[Step, ...]:
    """What to type on the two machines."""
    sign = ("./sign.sh release.key",) if signed else ()
    return (
        Step(
            "On a connected machine of the same kind, in a copy of this folder",
            ("./collect.sh", *sign),
            "Fetches wheels, models and images, and writes their checksums. A key is made once: openssl genpkey "
            "-algorithm ed25519 -out release.key; openssl pkey -in release.key -pubout -out release.pub",
        ),
    )


def _pulls(ground: Ground) -> Sequence[str]:
    """How models that have names on a hub are fetched: into models/ for `sextant up`, else into weights/."""
    lines = []
    for served in ground.order.served:
        source = served.entry.source or ""
        if source.startswith(HUBS):
            lines.append(f"pull {served.key} '{source}'")
    return lines or [":"]


_SOURCES = r"""
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
"""
_COLLECT = r"""
# collect.sh [--wheel FILE]: fills this folder on a connected machine. --wheel: Sextant from a file, not the index.
wheel=sextant-llm==$version
if [ "${1:-}" = --wheel ]; then wheel=$2; fi
cd "$here"
python=$(find_python)
rm -rf wheels
mkdir -p wheels
set --
for platform in $platforms; do set -- "$@" --platform "$platform"; done
[ $# -eq 0 ] || set -- "$@" --only-binary=:all:
say "Fetching wheels …"
"$python" -m pip --disable-pip-version-check download --quiet --dest wheels "$@" "$wheel"
pull() { # pull NAME SOURCE: weights by the tool of Sextant itself, from an environment made for this
    if [ ! -x .collect/bin/sextant ]; then
        "$python" -m venv .collect
        .collect/bin/python -m pip --disable-pip-version-check install --quiet --no-index --no-deps wheels/*.whl
    fi
    .collect/bin/sextant model pull "$2" --state .collect/state
    mkdir -p "weights/$1"
    cp -RL .collect/state/models/. "weights/$1/"
}
@PULLS@
rm -rf .collect
for image in $images_list; do
    mkdir -p images
    docker pull "$image"
    docker save --output "images/$(printf '%s' "$image" | tr '/:@' '---').tar" "$image"
done
rm -f SHA256SUMS SHA256SUMS.sig
find . -type f | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$here.sums"
mv "$here.sums" SHA256SUMS
say "$(wc -l <SHA256SUMS) files are in SHA256SUMS."
"""
_SIGN = r"""
# sign.sh KEY: writes SHA256SUMS over this folder and signs it with the ed25519 private key in KEY (PEM).
# The key never belongs into this folder.
cd "$(dirname "$0")"
key=${1:?usage: sign.sh KEY.pem}
rm -f SHA256SUMS SHA256SUMS.sig
sums=$(mktemp)
find . ! -type d | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$sums"
mv "$sums" SHA256SUMS
chmod 644 SHA256SUMS
openssl pkeyutl -sign -rawin -inkey "$key" -in SHA256SUMS -out SHA256SUMS.sig
"""
_OFFLINE = r"""
# install-offline.sh [arguments of install.sh]: on the closed machine, from a collected folder.
[ -e "$here/SHA256SUMS" ] || die "$here was not collected: run ./collect.sh on a connected machine"
ls "$here"/wheels/*.whl >/dev/null 2>&1 || die "$here has no wheels: run ./collect.sh on a connected machine"
(cd "$here" && sha256sum --check --quiet --strict SHA256SUMS) || die "$here is damaged; copy it again"
for image in "$here"/images/*.tar; do
    [ ! -e "$image" ] || docker load --input "$image"
done
if [ -n "$weights_folder" ] && [ -d "$here/weights" ]; then
    mkdir -p "$root$weights_folder"
    cp -R "$here"/weights/. "$root$weights_folder/"
fi
exec "$here/install.sh" "$@"
"""
