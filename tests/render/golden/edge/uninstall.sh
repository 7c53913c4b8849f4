#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"

# uninstall.sh [--purge]: stops and removes everything; data and configuration only with --purge.
purge=no
case ${1:-} in
    '') ;;
    --purge) purge=yes ;;
    *) die "unknown argument $1; usage: uninstall.sh [--purge]" ;;
esac
check_root
if [ -e "$etc/units" ]; then
    while read -r unit; do
        "$systemctl" disable --now "$unit" || true
        rm -f "$unit_dir/$unit"
    done <"$etc/units"
    "$systemctl" daemon-reload
fi
if [ -z "$root" ] && command -v nft >/dev/null; then nft delete table inet sextant 2>/dev/null || true; fi
remove_images
rm -rf "$base" "$etc/units" "$etc/installed" "$etc/role" "$root/run/sextant"
if [ "$purge" = yes ]; then
    kept=
    if [ -e "$etc/backup-password" ]; then kept=$(cat "$etc/backup-password"); fi
    rm -rf "$etc" "$state" "$state-metrics" "$root/var/lib/private/sextant-metrics"
    if [ -n "$kept" ]; then
        mkdir "$etc"
        (umask 077 && printf '%s\n' "$kept" >"$etc/backup-password")
        say "Kept: $etc/backup-password, without which the backups in $backup_repository cannot be read."
    fi
    if [ -z "$root" ]; then
        for user in $users; do userdel "$user" 2>/dev/null || true; done
    fi
    say "$name is gone, with its data."
else
    say "$name is gone; its data stays in $state and its configuration in $etc (remove them with --purge)."
fi
