"""The scripts that an operator runs: install, upgrade with automatic roll-back, roll-back, uninstall.

Each is POSIX sh over `lifecycle.LIBRARY`. What differs between bundles stands in `settings.sh`.
"""

from __future__ import annotations

import shlex

import msgspec

from sextant.render.dumping import script_file, text_file
from sextant.render.hosts.lifecycle import LIBRARY
from sextant.spec.bundle import File

QUESTION = "What is 58 + 67?"
"""Put to a model to see that a release answers."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What the scripts of one bundle are told."""

    name: str
    version: str
    release: str
    url: str
    """Of the gateway, on this server."""
    ready_s: int
    """Longest time from start to ready."""
    contained: bool = False
    """Whether Sextant is an image instead of an environment of Python."""
    signed: bool = False
    front: str = "none"
    tls: bool = False
    """Whether a certificate must be there."""
    hsm: bool = False
    """Whether keys of the server are in an HSM."""
    hsm_tls: bool = False
    """Whether the front's is."""
    hsm_group: str = ""
    """Who may use it, beside root."""
    measure: bool = False
    """Whether latency is measured at install."""
    engine_variables: tuple[str, ...] = ()
    """Environment variables that carry the engines' key."""
    models: tuple[str, ...] = ()
    """Files that must stand in models/."""
    weights_folder: str = ""
    """Where weights of launched engines are; empty: there are none."""
    backup_repository: str = ""
    """Of restic; empty: no backups are made."""
    backup_keep_days: int = 0
    backup_holder: str = ""
    """Only the server that has this address makes them; empty: every one."""
    users: tuple[str, ...] = ("sextant",)
    programs: tuple[str, ...] = ()
    """That must be on the server's PATH or in /usr/sbin."""
    roles: tuple[str, ...] = ()
    """That servers of this bundle have; empty: all are alike."""
    secret_variables: tuple[str, ...] = ()
    """That must stand in secrets.env before the first start."""
    secret_files: tuple[str, ...] = ()
    """Below /etc/sextant, that must be there before the first start."""


def script_files(settings: Settings) -> tuple[File, ...]:
    """settings.sh, lib.sh and the four scripts."""
    return (
        text_file("settings.sh", _settings(settings)),
        text_file("lib.sh", LIBRARY.strip()),
        script_file("install.sh", _HEAD + _INSTALL),
        script_file("upgrade.sh", _HEAD + _UPGRADE),
        script_file("rollback.sh", _HEAD + _ROLLBACK),
        script_file("uninstall.sh", _HEAD + _UNINSTALL),
    )


def _settings(settings: Settings) -> str:
    values = {
        "name": settings.name,
        "version": settings.version,
        "release": settings.release,
        "url": settings.url,
        "ready_s": str(settings.ready_s),
        "contained": _word(settings.contained),
        "signed": _word(settings.signed),
        "front": settings.front,
        "tls": _word(settings.tls),
        "measure": _word(settings.measure),
        "engine_variables": " ".join(settings.engine_variables),
        "models": " ".join(settings.models),
        "weights_folder": settings.weights_folder,
        **_hsm_values(settings),
        **_backup_values(settings),
        "users": " ".join(settings.users),
        "programs": " ".join(settings.programs),
        "roles": " ".join(settings.roles),
        "secret_variables": " ".join(settings.secret_variables),
        "secret_files": " ".join(settings.secret_files),
        "question": QUESTION,
    }
    lines = [f"{name}={shlex.quote(value)}" for name, value in values.items()]
    return "\n".join(
        ("# What this bundle's scripts are about.", "# shellcheck shell=sh disable=SC2034", *lines)
    )


def _hsm_values(settings: Settings) -> dict[str, str]:
    if not settings.hsm:
        return {}
    return {"hsm": "yes", "hsm_tls": _word(settings.hsm_tls), "hsm_group": settings.hsm_group}


def _backup_values(settings: Settings) -> dict[str, str]:
    if not settings.backup_repository:
        return {"backup_repository": ""}
    return {
        "backup_repository": settings.backup_repository,
        "backup_keep_days": str(settings.backup_keep_days),
        "backup_holder": settings.backup_holder,
    }


def _word(value: bool) -> str:
    return "yes" if value else "no"


_HEAD = r"""
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
"""

_INSTALL = r"""
usage() {
    cat <<'END'
usage: install.sh [--cert FILE [--key FILE] [--client-ca FILE]] [--wheels DIR] [--trust KEY.pub] [--role ROLE]
  --cert, --key  TLS certificate chain and its private key, PEM; kept in /etc/sextant/tls; no --key where it is
                 in an HSM
  --client-ca    callers must show a certificate signed by one of these
  --wheels       folder of wheels instead of the one in this bundle, or the package index
  --trust        ed25519 public key, PEM, that signed this bundle; kept for upgrades
  --role         what this server is, where they differ
END
}
cert='' key='' client_ca='' wheels='' trust='' role=''
while [ $# -gt 0 ]; do
    case $1 in
        --cert) cert=$2 && shift 2 ;;
        --key) key=$2 && shift 2 ;;
        --client-ca) client_ca=$2 && shift 2 ;;
        --wheels) wheels=$2 && shift 2 ;;
        --trust) trust=$2 && shift 2 ;;
        --role) role=$2 && shift 2 ;;
        --help) usage && exit 0 ;;
        *) usage >&2 && die "unknown argument $1" ;;
    esac
done

check_root
[ ! -e "$etc/installed" ] || die "$name is installed; use ./upgrade.sh"
for program in $programs; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || die "$program is not on this machine; install it"
done
if [ -n "$roles" ]; then
    case " $roles " in *" $role "*) ;; *) die "say what this server is: --role, one of: $roles" ;; esac
fi
if [ "$signed" = yes ] && [ -z "$trust" ] && [ ! -e "$etc/trusted.pub" ]; then
    die "name the key that signed this bundle: --trust KEY.pub"
fi
if [ "$tls" = yes ] && [ -z "$cert" ] && [ ! -e "$etc/tls/server.pem" ]; then
    if [ "${hsm_tls:-no}" = yes ]; then die "a TLS certificate is needed, for the key in the HSM: --cert FILE"; fi
    die "a TLS certificate is needed: --cert FILE --key FILE"
fi
if [ "${hsm_tls:-no}" = yes ]; then
    [ -z "$key" ] || die "the front's key is in the HSM; leave --key away, and keep no copy of a key in files"
elif [ -n "$cert" ] && [ -z "$key" ]; then
    die "--cert needs --key FILE, its private key"
fi
for variable in $secret_variables; do
    grep -q "^$variable=." "$etc/secrets.env" 2>/dev/null ||
        die "$variable is not in $etc/secrets.env, and the document names it; write $variable=… there (mode 0600)"
done
for file in $secret_files; do
    [ -s "$root$file" ] || die "$root$file is not there or empty, and the document names it; write the secret into it (mode 0600)"
done
take_lock
stage "$here" "$wheels" "${trust:-$etc/trusted.pub}"
hsm_answers "${cert:-$etc/tls/server.pem}"

if [ -z "$root" ]; then
    for user in $users; do make_user "$user"; done
fi
mkdir -p "$etc/tls" "$state"
chmod 0700 "$state"
own sextant "$state"
bring_all "$here"
[ -z "$trust" ] || cp "$trust" "$etc/trusted.pub"
if [ -n "$cert" ]; then
    cp "$cert" "$etc/tls/server.pem"
    if [ -n "$key" ]; then
        (umask 077 && cp "$key" "$etc/tls/server.key")
        ln -sf server.key "$etc/tls/server.pem.key"
    fi
    [ -z "$client_ca" ] || cp "$client_ca" "$etc/tls/clients.pem"
    keeper=sextant
    [ "$front" = none ] || keeper=sextant-front
    own "$keeper" "$etc/tls"
fi
if [ ! -e "$etc/secrets.env" ]; then (umask 077 && : >"$etc/secrets.env"); fi
if [ -n "$engine_variables" ] && [ ! -e "$etc/engine-key" ]; then
    # The same on every server: copy both files from the first one before installing the others.
    engine_key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '%s\n' "$engine_key" >"$etc/engine-key")
    (umask 077 && for variable in $engine_variables; do printf '%s=%s\n' "$variable" "$engine_key"; done >"$etc/engine-key.env")
fi
if [ -e "$etc/engine-key" ]; then own sextant "$etc/engine-key"; fi
for file in $secret_files; do
    chmod 0600 "$root$file"
    own sextant "$root$file"
done
printf '%s\n' "${role:-all}" >"$etc/role"

programs_dir=$base/releases/$staged/venv/bin
point current "$staged"
if serves "$staged"; then
    # Here rather than in the unit, so that keys are shown to who installs and never reach the journal.
    say "First start, to make the databases, the first key and the admin credential:"
    first_start "$programs_dir"
fi

switch_to "$staged"
for unit in $(enabled_units "$base/current/bundle"); do "$systemctl" enable "$unit"; done
answers "$staged" || die "$name does not answer; look at: journalctl -u sextant.service, then run ./uninstall.sh"
if [ "$measure" = yes ]; then
    as_service "$programs_dir/python" -m sextant.app.host_check latency --url "$url" --state "$state" \
        --report "$state/latency.json"
fi
: >"$etc/installed"
say "$name $version answers at $url (release $staged)."
"""

_UPGRADE = r"""
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
"""

_ROLLBACK = r"""
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
"""

_UNINSTALL = r"""
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
"""
