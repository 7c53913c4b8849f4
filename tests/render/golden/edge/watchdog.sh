#!/bin/sh
set -eu
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
within_s=5
misses_most=3
grace_checks=8

# Run by the timer. Counts checks without an answer; a start may take its time before the first one.
mark=$root/run/sextant-watchdog/missed
mkdir -p "${mark%/*}"
if [ -d "$base/lock" ] || ! "$systemctl" is-active --quiet sextant.service; then
    rm -f "$mark"
    exit 0
fi
python=$here/../venv/bin/python
if "$python" -m sextant.app.host_check ready --path /health --url "$url" --within "$within_s"; then
    echo 0 >"$mark"
    exit 0
fi
missed=$(cat "$mark" 2>/dev/null || echo "-$grace_checks")
missed=$((missed + 1))
if [ "$missed" -lt "$misses_most" ]; then
    echo "$missed" >"$mark"
    exit 0
fi
rm -f "$mark"
say "The gateway did not answer $misses_most times in a row: sextant.service is restarted."
"$systemctl" restart sextant.service
