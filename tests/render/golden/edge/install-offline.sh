#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
weights_folder=''

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
