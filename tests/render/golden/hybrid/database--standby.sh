#!/bin/sh
set -eu
# Makes this host the standby of the server that PGHOST names; PGUSER is a role with REPLICATION, PGPASSFILE
# holds its password. PGDATA must be empty.
: "${PGHOST:?the primary}" "${PGUSER:?a role with REPLICATION}" "${PGDATA:?an empty folder}"
if [ -e "$PGDATA" ] && [ -n "$(ls -A "$PGDATA")" ]; then
  echo "$PGDATA is not empty; a standby begins with a copy of the primary" >&2
  exit 1
fi
export PGSSLMODE=verify-full
pg_basebackup --pgdata "$PGDATA" --wal-method stream --create-slot --slot sextant_standby --write-recovery-conf \
  --checkpoint fast --progress
echo "start PostgreSQL on $PGDATA; it follows $PGHOST. To take over: pg_ctl promote --pgdata $PGDATA"
