"""The air-gapped kit: what a connected machine collects, how it is signed, and how the closed one takes it.

`collect.sh` fills wheels/, weights/, cache/ and images/ beside the bundle's files and writes SHA256SUMS;
`sign.sh` signs that list with ed25519; `install-offline.sh` sees that it is there, and `install.sh` verifies
what it takes (`lifecycle.py`). Checksums of what is fetched are known only once it was fetched, so none are
made up here.
"""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from sextant.render.dumping import script_file, text_file
from sextant.render.hosts.documents import HUBS
from sextant.render.hosts.places import Ground
from sextant.spec.bundle import File, Step
from sextant.spec.engine_sections import RemoteEngine
from sextant.spec.security_sections import Hsm


class Kit(msgspec.Struct, frozen=True, kw_only=True):
    """What must be brought along."""

    images: tuple[str, ...] = ()
    """References of container images."""
    python: str = ""
    """Version of the Python that runs Sextant there; empty: that of the machine that collects."""
    platforms: tuple[str, ...] = ()
    """Wheel platforms of the server; empty: those of the machine that collects."""


def kit_files(ground: Ground, kit: Kit) -> tuple[File, ...]:
    """The lists and scripts of the kit."""
    collected = f"images_list='{' '.join(kit.images)}'\n"
    collected += f'platforms="{" ".join(kit.platforms)}"\n'
    collected += f"python_version='{kit.python}'\n"
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
        script_file("install-offline.sh", _SOURCES + _OFFLINE),
    )


def offline_steps(*, signed: bool, hsm: Hsm | None = None) -> tuple[Step, ...]:
    """What to type on the two machines."""
    if not signed:
        return (
            Step(
                "Without a network, instead of that: on a connected machine of the same kind, in a copy of this "
                "folder",
                ("./collect.sh",),
                "Fetches wheels, models and images, and writes their checksums. Carry the folder over.",
            ),
        )
    key = _uri(hsm) if hsm is not None and hsm.signing_key is not None else ""
    return (
        _key_step(key),
        Step(
            "On a connected machine of the same kind, in a copy of this folder",
            ("./collect.sh", f"./sign.sh {key or '../release.key'}"),
            "Fetches wheels, models and images, writes their checksums and signs them. Carry the folder over.",
        ),
    )


def _uri(hsm: Hsm) -> str:
    """The signing key as `sign.sh` takes it (RFC 7512), quoted for a shell."""
    serial = f";serial={quote(hsm.serial)}" if hsm.serial else ""
    return (
        f"'pkcs11:token={quote(hsm.token)}{serial};object={quote(hsm.signing_key or '')}"
        f"?module-path={hsm.module}&pin-source={hsm.pin}'"
    )


def _key_step(uri: str) -> Step:
    if uri:
        return Step(
            "Once, where releases are signed: make the key in the HSM, and write its public half",
            (f"sextant hsm public-key --key {uri} -o ../release.pub",),
            "`sextant hsm init` makes it. Variables that the library needs are in the environment.",
        )
    return Step(
        "Once, where releases are signed: make the key pair",
        (
            "openssl genpkey -algorithm ed25519 -out ../release.key",
            "openssl pkey -in ../release.key -pubout -out ../release.pub",
        ),
        "Neither file belongs into this folder.",
    )


def _pulls(ground: Ground) -> Sequence[str]:
    """How models that have names on a hub are fetched: weights of launched engines into weights/, models of
    embedded ones into cache/, where `sextant up` looks for what it fetched before."""
    lines = []
    for served in ground.order.served:
        source = served.entry.source or ""
        if source.startswith(HUBS):
            into = "weights" if served in ground.launched else "cache"
            lines.append(f"pull {into} {served.key} '{source}'")
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
# Where packages and models come from is pip's own configuration, and HF_ENDPOINT or MODELSCOPE_ENDPOINT.
extras=
[ "${hsm:-no}" != yes ] || extras='[hsm]'
wheel=sextant-llm$extras==$version
case ${1:-} in
    '') ;;
    --wheel) wheel=$(cd "$(dirname "$2")" && pwd)/${2##*/}$extras ;;
    *) die "unknown argument $1; usage: collect.sh [--wheel FILE]" ;;
esac
cd "$here"
for model in $models; do
    [ -e "models/$model" ] || die "models/$model is missing; put it there first"
done
image_tool=none
if [ -n "$images_list" ]; then
    for candidate in skopeo docker; do
        if command -v "$candidate" >/dev/null; then image_tool=$candidate && break; fi
    done
    [ "$image_tool" != none ] ||
        die "this kit has container images, and neither skopeo nor docker is here to fetch them; install one (Debian: apt-get install skopeo)"
fi
python=$(find_python)
rm -rf wheels weights cache images
rm -f SHA256SUMS SHA256SUMS.sig
mkdir -p wheels
set --
for platform in $platforms; do set -- "$@" --platform "$platform"; done
[ -z "$python_version" ] || set -- "$@" --python-version "$python_version"
[ $# -eq 0 ] || set -- "$@" --only-binary=:all:
say "Fetching wheels …"
"$python" -m pip --disable-pip-version-check download --quiet --dest wheels "$@" "$wheel" ||
    die "pip could not fetch $wheel and what it needs; is the package index reachable (pip config list)? A Sextant that is not on it: collect.sh --wheel FILE"
"$python" -c 'import platform, sys; print("Python %d.%d on %s" % (*sys.version_info[:2], platform.machine()))' >kit/collected-by
pull() { # pull weights|cache NAME SOURCE: by the tool of Sextant itself, from an environment made for this
    if [ ! -x .collect/bin/sextant ]; then
        "$python" -m venv .collect
        set -- "$1" "$2" "$3" --no-index --no-deps wheels/*.whl
        [ -z "$python_version" ] || set -- "$1" "$2" "$3" "$wheel"
        (shift 3 && .collect/bin/python -m pip --disable-pip-version-check install --quiet "$@") ||
            die "the wheels of this kit do not fit this machine, which must fetch models with them; collect on one of the server's kind"
    fi
    say "Fetching $2 from $3 …"
    told=$(.collect/bin/sextant model pull "$3" --json --state .collect/state) || die "$3 could not be fetched"
    fetched=$(printf '%s' "$told" | .collect/bin/python -c 'import json, sys; print(json.load(sys.stdin)["path"])')
    mkdir -p "$1"
    if [ "$1" = cache ]; then
        cp -R .collect/state/models/. cache/
        find cache -name lock -type f -delete
    elif [ -d "$fetched" ]; then
        mkdir -p "weights/$2"
        cp -RL "$fetched/." "weights/$2/"
    else
        mkdir -p "weights/$2"
        cp -L "$fetched" "weights/$2/"
    fi
    rm -rf .collect/state
}
@PULLS@
rm -rf .collect
for image in $images_list; do
    mkdir -p images
    say "Fetching $image …"
    # Both a tag and a digest: fetched by the digest, kept under the tag.
    tagged=${image%%@*} exact=$image
    case $image in *@*) exact=${tagged%:*}@${image#*@} ;; esac
    file=images/$(printf '%s' "$tagged" | tr '/:' '--').tar
    if [ "$image_tool" = skopeo ]; then
        skopeo copy --quiet "docker://$exact" "docker-archive:$file:$tagged" || die "skopeo could not fetch $image"
    else
        docker pull --quiet "$exact" || die "docker could not fetch $image"
        docker tag "$exact" "$tagged"
        docker save --output "$file" "$tagged"
    fi
done
sums=$(mktemp)
find . -type f | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$sums"
mv "$sums" SHA256SUMS
chmod 644 SHA256SUMS
say "$(wc -l <SHA256SUMS) files are in SHA256SUMS, $(du -sh . | cut -f1) in all; carry this folder over, and: sudo ./install-offline.sh"
"""
_SIGN = r"""
# sign.sh KEY: writes SHA256SUMS over this folder and signs it with the ed25519 private key in KEY: a PEM file, or in
# an HSM, 'pkcs11:token=…;object=…?module-path=/…&pin-source=file:/…', through the `sextant` on the PATH.
# Neither the key nor the PIN belongs into this folder.
cd "$(dirname "$0")"
key=${1:?usage: sign.sh KEY.pem, or sign.sh pkcs11:…}
rm -f SHA256SUMS SHA256SUMS.sig
sums=$(mktemp)
find . ! -type d | sed 's|^\./||' | LC_ALL=C sort | xargs -d '\n' sha256sum >"$sums"
mv "$sums" SHA256SUMS
chmod 644 SHA256SUMS
case $key in
    pkcs11:*) "${SEXTANT:-sextant}" hsm sign SHA256SUMS --key "$key" -o SHA256SUMS.sig ;;
    *) openssl pkeyutl -sign -rawin -inkey "$key" -in SHA256SUMS -out SHA256SUMS.sig ;;
esac
"""
_OFFLINE = r"""
# install-offline.sh [arguments of install.sh]: on the closed machine, from a collected folder.
[ -e "$here/SHA256SUMS" ] || die "$here was not collected: run ./collect.sh on a connected machine"
ls "$here"/wheels/*.whl >/dev/null 2>&1 || die "$here has no wheels: run ./collect.sh on a connected machine"
exec "$here/install.sh" "$@"
"""
