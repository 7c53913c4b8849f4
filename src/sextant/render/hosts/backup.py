"""Backups of a server: a timer, the service that it starts, and a script that also lists and restores.

The databases are copied as of one moment by `sextant db backup`, and the copy goes to a restic repository: it
is encrypted before it leaves, checked after each run, and kept as long as the document says. The password and
the repository's own credentials are files of root's that systemd hands to the service. Neighbours:
`units.py`, `lifecycle.py` (the library that the script stands on).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import msgspec

from sextant.base.errors import Unsupported
from sextant.render.dumping import script_file
from sextant.render.hosts.places import BUNDLE, ETC, SECRETS, Ground
from sextant.render.hosts.units import HARDENED, NO_RIGHTS, Line, hsm_lines, unit_file
from sextant.spec.bundle import File, Need, Step
from sextant.spec.stores import SQLITE

SERVICE = "sextant-backup.service"
TIMER = "sextant-backup.timer"
PASSWORD = f"{ETC}/backup-password"
CREDENTIALS = f"{ETC}/backup.env"
"""Variables that restic wants for the repository, such as AWS_ACCESS_KEY_ID; empty for a folder."""
DAYS = ("Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat")
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))


class Backups(msgspec.Struct, frozen=True, kw_only=True):
    """What a server does about backups."""

    repository: str
    calendar: tuple[str, ...]
    """As systemd writes it."""
    keep_days: int
    holder: str = ""
    """Of a pair, only the server that has this address makes them; empty: there is one server."""

    @property
    def folder(self) -> str:
        """The repository where it is a folder of the server; else empty."""
        return self.repository if self.repository.startswith("/") else ""


def backups_of(ground: Ground) -> Backups | None:
    """What the document asks for; None where it asks for none. Raises Unsupported for a schedule that is not
    cron's, and for a folder that is named from nowhere."""
    continuity, defaults = ground.order.deployment.spec.continuity, ground.order.defaults
    asked = continuity.backup
    if asked is None:
        return None
    if ground.contained:
        raise Unsupported(
            f"{ground.order.name}: backups by a timer run without containers in this version; write "
            f"`orchestration: systemd`, or leave spec.continuity.backup out and run `sextant db backup`",
            field="spec.continuity.backup",
        )
    known = re.match(r"/|(s3|sftp|rest|b2|azure|gs|swift|rclone):", asked.repository)
    if known is None:
        raise Unsupported(
            f"{ground.order.name}: `{asked.repository}` is no restic repository; expected an absolute "
            f"folder or one of s3:, sftp:, rest:, b2:, azure:, gs:, swift:, rclone:, for example "
            f"`s3:https://s3.example.com/sextant`",
            field="spec.continuity.backup.repository",
        )
    return Backups(
        repository=asked.repository,
        calendar=calendar(asked.schedule or defaults.backup_schedule),
        keep_days=asked.keep_days or defaults.backup_keep_days,
        holder=continuity.standby.address if continuity.standby is not None else "",
    )


def calendar(cron: str) -> tuple[str, ...]:
    """Five fields of cron as systemd writes them: two lines where both a day and a weekday are named, since
    cron means either. Raises Unsupported naming the field that is not cron's."""
    fields = cron.split()
    minutes, hours, days, months, weekdays = (
        _values(text, name, low, high) for text, (name, low, high) in zip(fields, FIELDS, strict=True)
    )
    time = f"{_listed(hours, 0, 23)}:{_listed(minutes, 0, 59)}:00"
    month = _listed(months, 1, 12)
    named = ",".join(DAYS[number] for number in sorted({number % 7 for number in weekdays}))
    by_day = f"*-{month}-{_listed(days, 1, 31)} {time}"
    by_weekday = f"{named} *-{month}-* {time}"
    if fields[4].startswith("*"):
        return (by_day,)
    return (by_weekday,) if fields[2].startswith("*") else (by_day, by_weekday)


def _values(text: str, name: str, low: int, high: int) -> tuple[int, ...]:
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"(\*|(\w+)(?:-(\w+))?)(?:/(\d+))?", part)
        step = int(match[4] or 1) if match else 0
        first = low if match is None or match[1] == "*" else _number(match[2], name)
        stops = match is not None and (match[1] == "*" or match[4] is not None) and match[3] is None
        last = high if stops else first if match is None or match[3] is None else _number(match[3], name)
        if not step or not low <= first <= last <= high:
            raise Unsupported(
                f"`{part}` is no {name} of a backup's schedule; expected cron's fields: numbers from {low} "
                f"to {high}, `*`, ranges, lists and steps, for example `0 2 * * *`",
                field="spec.continuity.backup.schedule",
            )
        found.update(range(first, last + 1, step))
    return tuple(sorted(found))


def _number(word: str, name: str) -> int:
    """-1 for what is neither a number nor a name of one."""
    if word.isdecimal():
        return int(word)
    names = MONTHS if name == "month" else tuple(day.lower() for day in DAYS) if name == "weekday" else ()
    return names.index(word.lower()) + (name == "month") if word.lower() in names else -1


def _listed(values: Sequence[int], low: int, high: int) -> str:
    if len(values) == high - low + 1:
        return "*"
    return ",".join(f"{value:02d}" for value in values)


def backup_files(ground: Ground, backups: Backups) -> tuple[File, ...]:
    """The script, its service and its timer."""
    return script_file("backup.sh", _HEAD + _SCRIPT), _service(ground, backups), _timer(ground, backups)


def _service(ground: Ground, backups: Backups) -> File:
    folder: tuple[Line, ...] = (("ReadWritePaths", backups.folder),) if backups.folder else ()
    return unit_file(
        SERVICE,
        (
            "Unit",
            (
                ("Description", f"Sextant {ground.order.name}: back up accounts and ledger"),
                ("Documentation", f"file://{BUNDLE}/README.md"),
                ("Wants", "network-online.target"),
                ("After", "network-online.target"),
            ),
        ),
        (
            "Service",
            (
                ("Type", "oneshot"),
                ("User", "sextant"),
                ("Group", "sextant"),
                ("ExecStart", f"{BUNDLE}/backup.sh make"),
                ("Environment", "LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1"),
                ("EnvironmentFile", f"-{SECRETS}"),
                ("LoadCredential", f"backup-password:{PASSWORD}"),
                ("LoadCredential", f"backup.env:{CREDENTIALS}"),
                ("StateDirectory", "sextant"),
                ("StateDirectoryMode", "0700"),
                ("CacheDirectory", "sextant-backup"),
                ("CacheDirectoryMode", "0700"),
                ("TimeoutStartSec", "6h"),
                ("Slice", "sextant-background.slice"),
                ("IOSchedulingClass", "idle"),
                ("MemoryHigh", "1G"),
                ("MemoryMax", "2G"),
                *folder,
                *HARDENED,
                *hsm_lines(ground.order.deployment.spec.security.hsm),
                *NO_RIGHTS,
                ("MemoryDenyWriteExecute", "yes"),
            ),
        ),
    )


def _timer(ground: Ground, backups: Backups) -> File:
    return unit_file(
        TIMER,
        (
            "Unit",
            (("Description", f"Sextant {ground.order.name}: when to back up"), ("PartOf", "sextant.target")),
        ),
        (
            "Timer",
            (
                *(("OnCalendar", each) for each in backups.calendar),
                ("RandomizedDelaySec", "5min"),
                ("Persistent", "yes"),
            ),
        ),
        ("Install", (("WantedBy", "sextant.target"),)),
    )


def needs(ground: Ground, backups: Backups) -> Iterator[Need]:
    """What must be there for backups."""
    yield Need("program", "restic", "keeps backups; 0.14 or newer", "restic version")
    if ground.order.deployment.spec.store.url != SQLITE:
        yield Need("program", "pg_dump", "copies the database; of its server's version", "pg_dump --version")
    if backups.folder:
        yield Need(
            "storage",
            backups.folder,
            "is where backups are kept: a disk of another machine, since one of this server dies with it",
            f"findmnt --target {backups.folder}",
        )
    else:
        yield Need(
            "secret",
            f"the credentials of {backups.repository} in {CREDENTIALS}",
            "restic reads them as variables, for example AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            f"sudo ls -l {CREDENTIALS}",
        )
    yield Need(
        "secret",
        f"a copy of {PASSWORD} somewhere else",
        "backups are encrypted with it and lost without it; `install.sh` makes one where there is none",
        f"sudo ls -l {PASSWORD}",
    )


def verify_steps() -> tuple[Step, ...]:
    """How to see that backups work."""
    return (
        Step(
            "Make the first backup now, and see it",
            (f"sudo systemctl start {SERVICE}", f"sudo {BUNDLE}/backup.sh list"),
            "Ends with an error where the repository cannot be reached; later ones show in "
            "`systemctl list-timers` and, when they fail, in `systemctl --failed`.",
        ),
    )


def restore_steps() -> tuple[Step, ...]:
    """How to get the data back."""
    return (
        Step(
            "Put a backup in the place of the data, also on a new machine after `install.sh`",
            (f"sudo {BUNDLE}/backup.sh list", f"sudo {BUNDLE}/backup.sh restore latest"),
            "A new machine needs the old password and credentials first. What was there is set aside. Where "
            "servers share a database, stop sextant.service on all of them before.",
        ),
    )


def notes(ground: Ground, backups: Backups) -> Iterator[str]:
    """What backups do not do."""
    rpo_s = ground.order.deployment.spec.continuity.rpo_s
    if rpo_s is not None:
        yield (
            f"Backups run at {', '.join(backups.calendar)}: what was written since the last one is lost with "
            f"the disk. The {rpo_s} s of spec.continuity.rpo_s need a PostgreSQL store with streaming "
            f"replication or an archive of its log (pgBackRest), which this bundle does not set up."
        )


_HEAD = r"""
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
"""
_SCRIPT = r"""
# backup.sh make | list | restore [SNAPSHOT]: by sextant-backup.service, and by root.
program=$base/current/venv/bin/sextant
held=${CREDENTIALS_DIRECTORY:-$etc}
repository=$backup_repository
case $repository in /*) repository=$root$repository ;; esac
export RESTIC_REPOSITORY="$repository" RESTIC_PASSWORD_FILE="$held/backup-password"
export RESTIC_CACHE_DIR="${CACHE_DIRECTORY:-$root/var/cache/sextant-backup}" RESTIC_PROGRESS_FPS=0
set -a
# shellcheck disable=SC1091
. "$held/backup.env"
set +a
command -v restic >/dev/null || die "restic is not here; install it (Debian: apt-get install restic)"

make() {
    if [ -n "$backup_holder" ] && ! ip -o address | grep -qF " $backup_holder/"; then
        say "The other server has $backup_holder and makes the backups."
        return 0
    fi
    restic unlock --quiet 2>/dev/null || true
    if ! said=$(restic cat config 2>&1 >/dev/null); then
        case $said in
            *"wrong password"*)
                die "$etc/backup-password does not open $repository; put the right one there"
                ;;
        esac
        restic init --quiet || die "the repository $repository can be neither opened nor made"
    fi
    outgoing=$state/backups/outgoing
    rm -rf "$outgoing"
    trap 'rm -rf "$outgoing"' EXIT
    trap 'exit 143' HUP INT TERM # or whoever stops the service would leave a copy on this disk
    as_service "$program" db backup --to "$outgoing" --state "$state" >/dev/null
    restic backup --quiet --host "$name" --tag sextant "$outgoing" "$base/current/bundle/sextant.yaml"
    restic forget --quiet --host "$name" --tag sextant --group-by host --prune \
        --keep-within "${backup_keep_days}d"
    restic check --quiet
    say "Backed up accounts and ledger to $repository."
}

restore() {
    check_root
    [ -e "$etc/installed" ] || die "nothing is installed; run ./install.sh first, then this again"
    take_lock
    if [ ! -d "$state/secrets" ]; then
        say "There is no state here: a first start makes it."
        "$systemctl" restart sextant.service
        answers "$(in_use)" || die "$name does not answer; look at: journalctl -u sextant.service"
    fi
    incoming=$state/backups/incoming
    rm -rf "$incoming"
    trap 'rm -rf "$incoming" "$base/lock"' EXIT
    trap 'exit 143' HUP INT TERM
    restic restore "$1" --quiet --host "$name" --tag sextant --target "$incoming" \
        --include "$state/backups/outgoing" ||
        die "$1 is not in $repository, or cannot be read; look at: backup.sh list"
    found=$(find "$incoming" -name manifest.json -type f)
    [ -e "$found" ] || die "the snapshot $1 holds no backup of $name"
    own sextant "$state/backups"
    "$systemctl" stop sextant.service
    if ! as_service "$program" db restore "$(dirname "$found")" --state "$state"; then
        "$systemctl" start sextant.service
        answers "$(in_use)" || die "$name does not answer; look at: journalctl -u sextant.service"
        die "$1 could not be put back, as said above; $name runs with the data that it had"
    fi
    "$systemctl" start sextant.service
    answers "$(in_use)" || die "$name does not answer; look at: journalctl -u sextant.service"
    say "$name answers with the data of $1."
}

case ${1:-} in
    make) make ;;
    list) restic snapshots --host "$name" --tag sextant ;;
    restore) restore "${2:-latest}" ;;
    *) die "usage: backup.sh make | list | restore [SNAPSHOT]" ;;
esac
"""
