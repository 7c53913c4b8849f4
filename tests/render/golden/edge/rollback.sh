#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"

# rollback.sh [--restore BACKUP]: to the release before. Where that one cannot read the databases as they are now,
# a backup must be named; what was written since then is set aside, not merged.
restore=''
while [ $# -gt 0 ]; do
    case $1 in
        --restore) restore=$2 && shift 2 ;;
        *) die "unknown argument $1; usage: rollback.sh [--restore BACKUP]" ;;
    esac
done
check_root
now=$(in_use)
old=$(in_use previous)
[ -e "$base/releases/${old:-none}/complete" ] || die "there is no release before $now"
take_lock
before=$(cat "$base/releases/$old/schemas" 2>/dev/null || true)
if [ -z "$restore" ] && [ -n "$before" ] && [ "$before" != "$(schemas "$now")" ]; then
    as_service "$base/releases/$now/venv/bin/sextant" db list --state "$state"
    die "$now has migrated the databases, which $old cannot read; name a backup: rollback.sh --restore FOLDER"
fi
if [ -n "$restore" ]; then
    "$systemctl" stop sextant.service
    as_service "$base/releases/$old/venv/bin/sextant" db restore "$restore" --state "$state"
fi
switch_to "$old"
answers "$old" || die "$old does not answer; look at: journalctl -u sextant.service"
point previous "$now"
say "$old answers again (was: $now)."
