"""The watchdog of a box that nobody stands beside: asks the gateway, and restarts what does not answer.

The supervisor restarts its own children; this is for the case that it hangs itself. A timer runs it; an
upgrade, a stop by hand and a long first start are left alone.
"""

from __future__ import annotations

from sextant.render.dumping import script_file
from sextant.render.hosts.places import BUNDLE, Ground
from sextant.render.hosts.units import HARDENED, NO_DEVICES, unit_file
from sextant.spec.bundle import File

INTERVAL_S = 15
MISSES = 3
"""Checks in a row without an answer before a restart."""
ANSWER_S = 5
"""The gateway has so long to say that it is alive."""
TIMER = "sextant-watchdog.timer"


def watchdog_files(ground: Ground, *, ready_s: int) -> tuple[File, ...]:
    """The script, its service and its timer."""
    service = unit_file(
        "sextant-watchdog.service",
        ("Unit", (("Description", f"Sextant {ground.order.name}: restart what does not answer"),)),
        (
            "Service",
            (
                ("Type", "oneshot"),
                ("ExecStart", f"{BUNDLE}/watchdog.sh"),
                ("Environment", "LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1"),
                ("RuntimeDirectory", "sextant-watchdog"),
                ("RuntimeDirectoryPreserve", "yes"),
                ("TimeoutStartSec", "120"),
                ("Slice", "sextant-background.slice"),
                *HARDENED,
                *NO_DEVICES,
                ("CapabilityBoundingSet", ""),
                ("MemoryDenyWriteExecute", "yes"),
                ("IPAddressDeny", "any"),
                ("IPAddressAllow", "localhost"),
            ),
        ),
    )
    timer = unit_file(
        TIMER,
        ("Unit", (("Description", "Sextant: ask the gateway now and then"), ("PartOf", "sextant.target"))),
        (
            "Timer",
            (
                ("OnActiveSec", f"{INTERVAL_S}s"),
                ("OnUnitActiveSec", f"{INTERVAL_S}s"),
                ("AccuracySec", "1s"),
            ),
        ),
        ("Install", (("WantedBy", "sextant.target"),)),
    )
    head = f"within_s={ANSWER_S}\nmisses_most={MISSES}\ngrace_checks={-(-ready_s // INTERVAL_S)}\n"
    return script_file("watchdog.sh", _HEAD + head + _SCRIPT), service, timer


_HEAD = r"""
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
"""
_SCRIPT = r"""
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
"""
