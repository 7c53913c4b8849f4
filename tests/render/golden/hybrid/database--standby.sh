#!/bin/sh
set -eu
# Makes this host the standby of the server that PGHOST names; PGUSER is the role replicator, PGPASSFILE
# holds its password, PGSSLROOTCERT the authority of its certificate. PGDATA must be empty.
: "${PGHOST:?the primary}" "${PGUSER:?the role replicator}" "${PGDATA:?the folder of PostgreSQL here}"
export PGSSLMODE=verify-full
if [ -e "$PGDATA" ] && [ -n "$(ls -A "$PGDATA")" ]; then
  echo "$PGDATA is not empty; a standby begins with a copy of the primary" >&2
  exit 1
fi
psql -X -q -d postgres -c "SELECT pg_create_physical_replication_slot('sextant_standby', true)
  WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'sextant_standby')" >/dev/null
pg_basebackup --pgdata "$PGDATA" --wal-method stream --slot sextant_standby --write-recovery-conf \
  --checkpoint fast --progress
echo "start PostgreSQL on $PGDATA; it follows $PGHOST"
