"""What an operator meets after the installation: ports, logs, certificates, clocks, drivers, walls of units.

Written into the bundle as OPERATING.md, with a script that renews the certificate without a pause and a
configuration for logrotate. Neighbours: `steps.py` (what is typed at installation), `firewall.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from sextant.render.dumping import script_file, text_file
from sextant.render.hosts import backup, hsm, standby
from sextant.render.hosts.places import BUNDLE, ETC, STATE, VENV, Ground
from sextant.spec.bundle import File, Need, Step

EXPOSURE = {
    "sextant.service": "1.1",
    "sextant-front.service": "1.5",
    "sextant-firewall.service": "1.5",
    "sextant-standby.service": "2.2",
    "sextant-backup.service": "1.2",
    "sextant-engine-": "1.6",
}
"""At most, by `systemd-analyze security` of systemd 252, where 10 is the worst; measured again by a test."""
CONTAINED = "1.6"
"""Of a unit that starts a container."""
DRIVERS = {
    "nvidia": (
        "the NVIDIA driver, in persistence mode",
        "nvidia-smi --query-gpu=driver_version,persistence_mode --format=csv",
    ),
    "amd": ("the amdgpu driver and ROCm", "rocm-smi --showdriverversion"),
    "intel": ("the Habana driver", "hl-smi --query-aip=driver_version --format=csv"),
    "huawei": ("the Ascend driver and firmware", "npu-smi info"),
}
Port = tuple[str, str, str]
"""Address and port, who listens, who may reach it."""


def operating_files(ground: Ground, unit_names: Sequence[str], *, pair: bool) -> tuple[File, ...]:
    """OPERATING.md, the renewal of the certificate, and logrotate's configuration."""
    return (
        text_file("OPERATING.md", "\n".join(_page(ground, unit_names, pair=pair))),
        script_file("renew-certificate.sh", _HEAD + _RENEW),
        text_file("sextant.logrotate", _LOGROTATE.format(days=ground.order.defaults.log_days, state=STATE)),
    )


def exposure_of(ground: Ground, unit: str) -> str:
    """What `systemd-analyze security` says of that unit."""
    if ground.contained and unit != "sextant-firewall.service":
        return CONTAINED
    return EXPOSURE[next(name for name in EXPOSURE if unit.startswith(name))]


def needs(ground: Ground) -> Iterator[Need]:
    """Of every server: a clock that is right, and drivers of its accelerators."""
    yield Need(
        "program",
        "a time service (systemd-timesyncd, chrony)",
        "certificates, budgets and the ledger's days go by the clock",
        "timedatectl show --property=NTPSynchronized",
    )
    for vendor in sorted({served.vendor for served in ground.launched} & set(DRIVERS)):
        name, check = DRIVERS[vendor]
        yield Need("hardware", name, "runs the accelerators; without it the first request waits", check)


def verify_steps() -> tuple[Step, ...]:
    """What to look at when something is odd."""
    return (
        Step(
            "Where something is odd",
            (f"sudo -u sextant {VENV}/bin/sextant doctor", "journalctl -u 'sextant*' --since -1h"),
            "OPERATING.md has ports, logs and the renewal of certificates.",
        ),
    )


def pair_upgrade() -> tuple[Step, ...]:
    """The order in which two servers are upgraded."""
    return (
        Step(
            "Of a pair, begin with the server that does not have the address",
            ("ip -brief address", "sudo ./upgrade.sh"),
            "Then ask it a question by its own address, and do the same on the other one: the address moves "
            "while its front restarts. Both share one database, which the first upgrade migrates.",
        ),
    )


def _page(ground: Ground, unit_names: Sequence[str], *, pair: bool) -> Iterator[str]:
    yield f"# Operating {ground.order.name}"
    yield ""
    yield "## Ports"
    yield ""
    yield "| where | who listens | who may reach it |"
    yield "|---|---|---|"
    for where, who, reached in _ports(ground, pair=pair):
        yield f"| {where} | {who} | {reached} |"
    yield ""
    yield "## Units and how exposed they are"
    yield ""
    yield "At most, by `systemd-analyze security` of systemd 252, where 0 is the least and 10 the worst."
    yield ""
    yield "| unit | exposure |"
    yield "|---|---|"
    yield from (f"| {name} | {exposure_of(ground, name)} |" for name in unit_names)
    yield ""
    yield from _habits(ground)


def _ports(ground: Ground, *, pair: bool) -> Iterator[Port]:
    own = "this server"
    yield f"{ground.public_host or 'all addresses'}:{ground.public_port}", "the front, TLS 1.3", "callers"
    yield f"127.0.0.1:{ground.port}", "the gateway", own
    yield f"127.0.0.1:{ground.control_port}", "the admin API and the console", f"{own}; others by `ssh -L`"
    for served in ground.launched:
        ports = f"{ground.engine_port(served)}, with several replicas 9200 and up"
        yield ports, f"engines of {served.entry.name}", "servers of this bundle"
    if pair:
        yield "VRRP (IP protocol 112)", standby.UNIT, "the other server of the pair"


def _habits(ground: Ground) -> Iterator[str]:
    days = ground.order.defaults.log_days
    yield "## Logs"
    yield ""
    yield f"Units write to the journal; keep it {days} days with `MaxRetentionSec={days}day` in"
    yield "/etc/systemd/journald.conf. Files below /var/lib/sextant/logs are turned by logrotate:"
    yield ""
    yield f"    sudo install -m 0644 {BUNDLE}/sextant.logrotate /etc/logrotate.d/sextant"
    yield ""
    yield "No prompt and no key stands in either."
    yield ""
    yield "## Renewing the certificate"
    yield ""
    yield f"    sudo {BUNDLE}/renew-certificate.sh --cert server.pem --key server.key"
    yield ""
    yield "It refuses a key of another certificate, and a certificate that ends within a day. Requests under"
    yield "way end where they began. An ACME client may call it as its hook after each renewal."
    yield ""
    yield "## The clock"
    yield ""
    yield "Budgets, the days of the ledger and certificates go by it: `timedatectl` must say that it is"
    yield "synchronised."
    yield ""
    yield "## Keys"
    yield ""
    yield f"`{ETC}/engine-key` is the same on every server. To change it, write the new one into it and into"
    yield f"`{ETC}/engine-key.env` on all of them, then restart the engines and sextant.service."
    if ground.order.deployment.spec.continuity.backup is not None:
        yield f"`{backup.PASSWORD}` opens the backups: keep a copy on another machine."
    yield from hsm.operating_lines(ground)


_HEAD = r"""
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=settings.sh
. "$here/settings.sh"
# shellcheck source=lib.sh
. "$here/lib.sh"
"""
_RENEW = r"""
# renew-certificate.sh --cert FILE [--key FILE]: a new certificate for the front, while it serves; no --key
# where the key is in an HSM and stays the same.
cert='' key=''
while [ $# -gt 0 ]; do
    case $1 in
        --cert) cert=$2 && shift 2 ;;
        --key) key=$2 && shift 2 ;;
        *) die "unknown argument $1; usage: renew-certificate.sh --cert FILE --key FILE" ;;
    esac
done
if [ "${hsm_tls:-no}" = yes ]; then
    if [ -z "$cert" ] || [ -n "$key" ]; then die "the key is in the HSM: renew-certificate.sh --cert FILE"; fi
elif [ -z "$cert" ] || [ -z "$key" ]; then
    die "usage: renew-certificate.sh --cert FILE --key FILE"
fi
check_root
[ -e "$etc/tls/server.pem" ] || die "there is no certificate in $etc/tls; use ./install.sh"
openssl x509 -in "$cert" -noout -checkend 86400 >/dev/null 2>&1 ||
    die "$cert is no certificate, or ends within a day; the one in use stays"
parts='pem key'
if [ "${hsm_tls:-no}" = yes ]; then
    parts=pem
    staged=$(in_use)
    hsm_answers "$cert"
else
    held=$(openssl pkey -in "$key" -pubout 2>/dev/null || true)
    [ "$(openssl x509 -in "$cert" -noout -pubkey 2>/dev/null)" = "$held" ] ||
        die "$key is not the key of $cert; the one in use stays"
fi
take_lock
for one in $parts; do cp -p "$etc/tls/server.$one" "$etc/tls/server.$one.before"; done
lay() { # lay FILE PLACE MODE
    install -m "$3" "$1" "$etc/tls/$2.new"
    if [ -z "$root" ]; then chown --reference="$etc/tls/$2" "$etc/tls/$2.new"; fi
    mv "$etc/tls/$2.new" "$etc/tls/$2"
}
verb=reload
[ "$contained" = no ] || verb=restart
[ -z "$key" ] || lay "$key" server.key 0600
lay "$cert" server.pem 0644
if ! "$systemctl" "$verb" sextant-front.service; then
    for one in $parts; do mv "$etc/tls/server.$one.before" "$etc/tls/server.$one"; done
    "$systemctl" "$verb" sextant-front.service || true
    die "the front did not take $cert; the one before is in use again"
fi
rm -f "$etc/tls/server.pem.before" "$etc/tls/server.key.before"
say "The front uses the certificate that ends on $(openssl x509 -in "$cert" -noout -enddate | cut -d= -f2)."
"""
_LOGROTATE = """\
# What `sextant up` and its processes write beside the journal. For /etc/logrotate.d/sextant.
{state}/logs/*.log {{
    su sextant sextant
    daily
    rotate {days}
    maxsize 100M
    compress
    missingok
    notifempty
    copytruncate
}}
"""
