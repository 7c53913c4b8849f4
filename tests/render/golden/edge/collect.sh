#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
images_list=''
platforms=''

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
:
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
