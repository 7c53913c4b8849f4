#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"

# install-offline.sh [arguments of install.sh]: on the closed machine, from a collected folder.
[ -e "$here/SHA256SUMS" ] || die "$here was not collected: run ./collect.sh on a connected machine"
ls "$here"/wheels/*.whl >/dev/null 2>&1 || die "$here has no wheels: run ./collect.sh on a connected machine"
exec "$here/install.sh" "$@"
