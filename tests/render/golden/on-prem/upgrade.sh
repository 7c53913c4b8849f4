#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"

# upgrade.sh [DIR] [--wheels DIR]: to the bundle in DIR, by the scripts and the key of the release in use; without
# DIR, to the bundle that this script stands in.
kit=$here wheels=''
while [ $# -gt 0 ]; do
    case $1 in
        --wheels) wheels=$2 && shift 2 ;;
        -*) die "unknown argument $1; usage: upgrade.sh [DIR] [--wheels DIR]" ;;
        *) kit=$(cd "$1" && pwd) && shift ;;
    esac
done
check_root
[ -e "$etc/installed" ] || die "nothing is installed; use ./install.sh"
installed=$(cd "$base/current/bundle" && pwd -P)
if [ "$signed" = yes ] && [ "$(cd "$here" && pwd -P)" != "$installed" ]; then
    # What came with the new bundle is not trusted before it is verified: the installed scripts do that.
    exec "$installed/upgrade.sh" "$kit" ${wheels:+--wheels "$wheels"}
fi
take_lock
old=$(in_use)
release=$(setting release "$kit") version=$(setting version "$kit") models=$(setting models "$kit")
weights_folder=$(setting weights_folder "$kit")
hsm=$(setting hsm "$kit") hsm_tls=$(setting hsm_tls "$kit")
[ -n "$release" ] || die "$kit is no bundle of ours: its settings.sh names no release"
stage "$kit" "$wheels" "$etc/trusted.pub"
hsm_answers "$etc/tls/server.pem"
metrics_token "$base/releases/$old/venv/bin" "$kit"
bring_all "$kit"
if [ "$staged" = "$old" ]; then
    say "$old is in use already."
    exit 0
fi

before=$(schemas "$old")
backup=$(as_service "$base/releases/$old/venv/bin/sextant" db backup --json --state "$state" |
    sed -n 's/.*"backup": *"\([^"]*\)".*/\1/p' | head -n 1)
[ -n "$backup" ] || die "the databases could not be backed up; nothing was changed"

back() {
    trap - INT TERM HUP
    say "error: $staged does not answer; going back to $old" >&2
    "$systemctl" stop sextant.service || true
    after=$(schemas "$staged")
    if [ -n "$after" ] && [ "$after" != "$before" ]; then
        say "The databases were migrated; putting back $backup" >&2
        as_service "$base/releases/$old/venv/bin/sextant" db restore "$backup" --state "$state" >&2
    fi
    switch_to "$old"
    answers "$old" || die "$old does not answer either; look at: journalctl -u sextant.service; backup: $backup"
    rm -rf "$base/releases/$staged"
    die "the upgrade to $staged failed; $old serves again"
}
trap back INT TERM HUP
switch_to "$staged"
if ! answers "$staged"; then back; fi
trap - INT TERM HUP
printf '%s\n' "$before" >"$base/releases/$old/schemas"
point previous "$old"
prune_releases
say "$name $version answers at $url (release $staged; before: $old; backup: $backup)."
