#!/bin/sh
set -eu
# Makes an old primary the standby of the server that took over, which PGHOST names. Variables as for
# standby.sh; PGCONFIG is postgresql.conf where it is not in PGDATA. PostgreSQL must not run here.
: "${PGHOST:?the primary}" "${PGUSER:?the role replicator}" "${PGDATA:?the folder of PostgreSQL here}"
export PGSSLMODE=verify-full
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
  echo "$PGHOST has made no checkpoint since it took over, and pg_rewind would see no difference;" \
    "type there: psql -d postgres -c CHECKPOINT" >&2
  exit 1
fi
psql -X -q -d postgres -c "SELECT pg_create_physical_replication_slot('sextant_standby', true)
  WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'sextant_standby')" >/dev/null
pg_rewind --target-pgdata "$PGDATA" ${PGCONFIG:+--config-file="$PGCONFIG"} --write-recovery-conf \
  --progress --source-server "host=$PGHOST user=$PGUSER dbname=postgres"
echo "primary_slot_name = 'sextant_standby'" >>"$PGDATA/postgresql.auto.conf"
echo "start PostgreSQL on $PGDATA; it follows $PGHOST"
