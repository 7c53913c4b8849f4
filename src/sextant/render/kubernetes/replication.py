"""PostgreSQL's replication between two sites: settings, scripts for both hosts, alerts on what may be lost.

Asynchronous: a commit waits for nobody, and what has not crossed when a site is lost is lost. Who watches
that stands on three values of postgres_exporter on the standby, since its `pg_replication_lag_seconds` is 0
while the standby hears nothing: what has not arrived cannot be behind. Neighbours: `sites.py` (the rest of
what joins two sites), `hybrid.py`.
"""

from __future__ import annotations

from sextant.render.dumping import script_file, text_file
from sextant.render.kubernetes.cluster import Cluster
from sextant.render.kubernetes.objects import Object, made
from sextant.spec.bundle import File, Step

SLOT = "sextant_standby"
STREAMING = 2
"""What `pg_stat_wal_receiver_status` says of a standby that hears the primary."""
ROLE = "replicator"


def hears_within_s(rpo_s: int) -> int:
    """How long a standby may hear nothing before it gives the connection up and says so."""
    return max(rpo_s // 3, 1)


def replication_alert(cluster: Cluster, rpo_s: int) -> Object:
    """Somebody is called before more is at stake than may be lost: a cut link after two thirds of `rpo_s` and
    what a scrape takes, a standby that does not keep up after half of it."""
    half_s = rpo_s / 2
    alerts = [
        {
            "alert": "SextantReplicationCut",
            "expr": f"absent(pg_stat_wal_receiver_status == {STREAMING})",
            "for": f"{hears_within_s(rpo_s)}s",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": "No standby hears the primary, or nobody knows: what is written from now on is "
                f"lost with the primary's site, and {rpo_s} s are all that may be."
            },
        },
        {
            "alert": "SextantReplicationBehind",
            "expr": f"max(pg_replication_last_replay_seconds) > {half_s:g} "
            "and on() max(rate(pg_stat_wal_receiver_latest_end_lsn[1m])) > 0",
            "labels": {"severity": "critical"},
            "annotations": {
                "summary": f"The standby is more than {half_s:g} s behind while the primary writes; "
                f"{rpo_s} s are all that may be lost."
            },
        },
    ]
    groups = [{"name": "sextant-replication", "rules": alerts}]
    part = cluster.part("replication")
    return made("monitoring.coreos.com/v1/PrometheusRule", part, {"groups": groups})


def replication_files(rpo_s: int) -> tuple[File, ...]:
    """PostgreSQL's settings, who may connect, the role that follows, and the scripts that make a standby."""
    return (
        text_file("database/primary.conf", _settings(rpo_s)),
        text_file("database/pg_hba.conf", _HBA),
        text_file("database/roles.sql", _ROLES),
        script_file("database/standby.sh", _STANDBY),
        script_file("database/rejoin.sh", _REJOIN),
    )


def replication_steps() -> tuple[Step, ...]:
    """How the standby comes to be."""
    return (
        Step(
            "Let PostgreSQL follow from one site to the other.",
            (
                "cat database/primary.conf database/pg_hba.conf",
                "psql -d postgres -f database/roles.sql",
                "./database/standby.sh",
            ),
            "The first are for both hosts, since either may be the primary one day. The second is typed on "
            "the primary, at the private site, and asks for the password of the role; the script runs on the "
            "standby's host, at the public one.",
        ),
    )


def takeover_steps() -> tuple[Step, ...]:
    """What is done when the primary is lost, and when it is back."""
    return (
        Step(
            "The primary is lost: let the standby take writes.",
            (
                "pg_isready -h PRIMARY",
                "psql -d postgres -c 'SELECT pg_last_xact_replay_timestamp()'",
                "psql -d postgres -c 'SELECT pg_promote()' -c CHECKPOINT",
            ),
            "On the standby's host. First make sure that the primary is down and stays down: with two that "
            "take writes there are two sets of books. The second shows the last commit that is here; later "
            "ones are lost. Gateways find the new primary by themselves.",
        ),
        Step(
            "The old primary is back: make it the standby.",
            ("./database/rejoin.sh",),
            "On its host, before PostgreSQL is started there. What it alone had is undone: keep a copy of "
            "its folder first where somebody may want to look at it.",
        ),
    )


def _settings(rpo_s: int) -> str:
    return f"""\
# Include from postgresql.conf on both hosts: either may be the primary one day. Asynchronous: a commit does
# not wait for the other site; what the standby lacks when the primary's site is lost is lost, and the alerts
# call before that is more than {rpo_s} s.
wal_level = replica
max_wal_senders = 5
max_replication_slots = 5
# Bounds what a standby that is away keeps on the primary's disk.
max_slot_wal_keep_size = 64GB
# Without it an old primary can be made the standby by a whole new copy alone (rejoin.sh).
wal_log_hints = on
wal_sender_timeout = 10s
# A standby that hears nothing for so long says so, which the alerts wait for.
wal_receiver_timeout = {hears_within_s(rpo_s)}s
wal_retrieve_retry_interval = 1s
synchronous_standby_names = ''
hot_standby = on
hot_standby_feedback = on
ssl = on
password_encryption = scram-sha-256
"""


_HBA = f"""\
# Add to pg_hba.conf on both hosts, with the other host's address in place of OTHER.
hostssl replication {ROLE} OTHER/32 scram-sha-256
hostssl postgres    {ROLE} OTHER/32 scram-sha-256
hostssl sextant     sextant    all      scram-sha-256
"""
_ROLES = f"""\
-- Once, on the primary: the role by which the other host follows, and what pg_rewind reads with it.
CREATE ROLE {ROLE} LOGIN REPLICATION;
GRANT EXECUTE ON FUNCTION pg_ls_dir(text, boolean, boolean) TO {ROLE};
GRANT EXECUTE ON FUNCTION pg_stat_file(text, boolean) TO {ROLE};
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text) TO {ROLE};
GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO {ROLE};
\\password {ROLE}
"""
_ASKED = f"""
: "${{PGHOST:?the primary}}" "${{PGUSER:?the role {ROLE}}}" "${{PGDATA:?the folder of PostgreSQL here}}"
export PGSSLMODE=verify-full
"""
_SLOT_MADE = f"""
psql -X -q -d postgres -c "SELECT pg_create_physical_replication_slot('{SLOT}', true)
  WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{SLOT}')" >/dev/null
"""
_STANDBY = f"""
# Makes this host the standby of the server that PGHOST names; PGUSER is the role {ROLE}, PGPASSFILE
# holds its password, PGSSLROOTCERT the authority of its certificate. PGDATA must be empty.
{_ASKED.strip()}
if [ -e "$PGDATA" ] && [ -n "$(ls -A "$PGDATA")" ]; then
  echo "$PGDATA is not empty; a standby begins with a copy of the primary" >&2
  exit 1
fi
{_SLOT_MADE.strip()}
pg_basebackup --pgdata "$PGDATA" --wal-method stream --slot {SLOT} --write-recovery-conf \\
  --checkpoint fast --progress
echo "start PostgreSQL on $PGDATA; it follows $PGHOST"
"""
_REJOIN = f"""
# Makes an old primary the standby of the server that took over, which PGHOST names. Variables as for
# standby.sh; PGCONFIG is postgresql.conf where it is not in PGDATA. PostgreSQL must not run here.
{_ASKED.strip()}
version=$(cat "$PGDATA/PG_VERSION")
for bin in "/usr/lib/postgresql/$version/bin" "/usr/pgsql-$version/bin"; do
  [ ! -d "$bin" ] || PATH=$bin:$PATH
done
if pg_ctl status --pgdata "$PGDATA" >/dev/null; then
  echo "PostgreSQL runs on $PGDATA; stop it first" >&2
  exit 1
fi
ended=$(psql -X -q -A -t -d postgres -c "SELECT lpad(to_hex(timeline_id), 8, '0') =
  lower(left(pg_walfile_name(pg_current_wal_lsn()), 8)) FROM pg_control_checkpoint()")
if [ "$ended" != t ]; then
  echo "$PGHOST has made no checkpoint since it took over, and pg_rewind would see no difference;" \\
    "type there: psql -d postgres -c CHECKPOINT" >&2
  exit 1
fi
{_SLOT_MADE.strip()}
pg_rewind --target-pgdata "$PGDATA" ${{PGCONFIG:+--config-file="$PGCONFIG"}} --write-recovery-conf \\
  --progress --source-server "host=$PGHOST user=$PGUSER dbname=postgres"
echo "primary_slot_name = '{SLOT}'" >>"$PGDATA/postgresql.auto.conf"
echo "start PostgreSQL on $PGDATA; it follows $PGHOST"
"""
