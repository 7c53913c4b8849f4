"""What each file of a bundle is for, in a few words: the second column of "What is here" in its README."""

from __future__ import annotations

import re
from collections import Counter
from fnmatch import fnmatchcase

from sextant.spec.bundle import File

SITES = ("private/", "public/")
"""Folders of a bundle for several clusters, each of which holds what a bundle for one does."""
WORDS = (
    ("install.sh", "installs and starts; `--help` says what it takes"),
    ("install-offline.sh", "the same from a folder that `collect.sh` filled"),
    ("collect.sh", "fetches wheels, models and images, on a connected machine"),
    ("sign.sh", "signs the folder with your ed25519 key"),
    ("upgrade.sh", "changes to this bundle, and goes back by itself where it does not answer"),
    ("rollback.sh", "goes back to the release before"),
    ("uninstall.sh", "removes it; data goes with `--purge` only"),
    ("backup.sh", "makes, lists and restores backups"),
    ("renew-certificate.sh", "puts a new certificate in place, without a pause"),
    ("container.sh", "starts and stops one service of compose.yaml; called by units"),
    ("watchdog.sh", "asks the gateway and restarts it; called by a timer"),
    ("build-fp8.sh", "makes FP8 weights, looks whether they are, and writes their checksums"),
    ("quantize-fp8.py", "makes FP8 weights before the engine starts"),
    ("lib.sh", "what the scripts share"),
    ("settings.sh", "what the scripts are about"),
    ("units.list", "which server runs which unit"),
    ("OPERATING.md", "ports, units, logs, certificates, keys: for every day after"),
    ("sextant.yaml", "the document that the gateway here runs with"),
    ("sextant.logrotate", "how log files are turned"),
    ("compose.yaml", "gateway, front and engines as containers"),
    ("image/Dockerfile", "the image of Sextant, built at installation"),
    ("front/*.nft", "firewall rules"),
    ("front/openssl-hsm.cnf", "brings the HSM's library to OpenSSL, and so to nginx"),
    ("front/*", "the proxy that callers reach: TLS, and the balance among engines"),
    ("hosts/*/keepalived.conf", "who of the pair has the address; one for each server"),
    ("gateway-answers.sh", "what keepalived asks the gateway"),
    ("kit/images.txt", "images that `collect.sh` fetches"),
    ("kit/weights.txt", "models that `collect.sh` fetches"),
    ("kit/wheels.txt", "what pip fetches for `collect.sh`"),
    ("systemd/sextant-engine-*.service", "an engine, with the arguments of the plan"),
    ("systemd/*-firewall.service", "loads the firewall rules"),
    ("systemd/*-front.service", "the proxy"),
    ("systemd/*-standby.service", "keepalived"),
    ("systemd/*-backup.*", "backups by the clock"),
    ("systemd/*-watchdog.*", "the watchdog by the clock"),
    ("systemd/*-metrics.*", "the metrics agent"),
    ("systemd/*.slice", "shares of CPU, memory and I/O"),
    ("systemd/sextant.target", "all of it, to start and to stop"),
    ("systemd/*.service", "the gateway, the ledger and the admin API"),
    ("metrics/*", "what the metrics agent reads, and where it sends it"),
    ("engine/*", "settings that an engine is started with"),
    ("database/primary.conf", "settings of PostgreSQL on both hosts"),
    ("database/pg_hba.conf", "who may follow it"),
    ("database/roles.sql", "the role that follows"),
    ("database/standby.sh", "begins to follow, on the other host"),
    ("database/rejoin.sh", "makes an old primary follow"),
    ("ci/github.yml", "pipeline of GitHub: build, check, sign, lock"),
    ("ci/gitlab.yml", "the same for GitLab"),
    ("ci/lock.sh", "writes a digest into the lock, renders, commits"),
    ("ci/sbom.sh", "writes an image's bill of materials"),
    ("ci/scan.sh", "ends the pipeline at known flaws"),
    ("ci/sign.sh", "signs an image's digest"),
    ("images/*/Dockerfile", "an image that you build"),
    ("compose/compose.yml", "all of it on one machine: `docker compose -f compose/compose.yml up`"),
    ("compose/sextant.yml", "the document that it runs with there"),
    ("compose/*", "settings of what watches there"),
    ("observability/saved-searches.ndjson", "searches for failed inference, for Kibana"),
    ("agreements/*", "a placeholder: counsel writes it"),
)
"""By name, or by pattern of `fnmatch`; the first that fits counts."""
_KIND = re.compile(r"^kind: ([A-Za-z0-9]+)$", re.MULTILINE)
"""Of an object as `dumping.yaml_file` writes it: what stands inside another one is indented."""
_DOCUMENT = "ModelDeployment"


def holding(file: File) -> str:
    """What that file is for: Kubernetes objects by kind with how many there are of each, others in words."""
    path = file.path
    for site in SITES:
        path = path.removeprefix(site)
    if path.endswith(".yaml"):
        counts = Counter(_KIND.findall(file.content.decode()))
        if counts and _DOCUMENT not in counts:
            return ", ".join(
                kind if count == 1 else f"{count} {kind}" for kind, count in sorted(counts.items())
            )
    for pattern, words in WORDS:
        if fnmatchcase(path, pattern):
            return words
    return "a program to run" if file.executable else ""
