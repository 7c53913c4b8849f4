"""What is written for servers passes the tools that will read it, and each check finds a planted mistake.

shellcheck, systemd-analyze (verify and security), nginx -t, haproxy -c, keepalived's config test, nft -c.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.render.host_bundles import certificate, laid_out, orders

from servers import program

KINDS = (
    "embedded-nginx", "embedded-haproxy", "r1", "r1-sglang", "distilled-finance", "triton",
    "pair-nginx", "pair-haproxy", "edge", "edge-tls",
)  # fmt: skip
EXPOSURE_MOST = 2.5
"""Of `systemd-analyze security`, where 10 is worst."""


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of all kinds, with paths of an installation below `root`."""
    found = {}
    for kind, made in orders().items():
        found[kind] = tmp_path_factory.mktemp(kind)
        root = laid_out(made, found[kind])
        certificate(root / "etc/sextant/tls")
    return found


def said(*command: str | Path) -> str:
    """Everything a validator prints, and its status where that is not 0."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=60, check=False,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip
    status = f"status {done.returncode}" if done.returncode else ""
    return (done.stdout + done.stderr + status).strip()


def shellcheck(folder: Path) -> str:
    tool = program("shellcheck", "shellcheck", "/usr/bin")
    return said("env", f"--chdir={folder}", tool, "-x", *sorted(path.name for path in folder.glob("*.sh")))


def systemd_verify(folder: Path) -> str:
    """systemd-analyze says `ignoring` for what it does not know and ends with 0: any word is a fault. Other
    units that ours name must be beside them."""
    tool = program("systemd-analyze", "systemd", "/usr/bin")
    units = sorted((folder / "systemd").iterdir())
    return said("env", f"SYSTEMD_UNIT_PATH={folder / 'systemd'}:", tool, "verify", "--man=no", *units)


def exposure(unit: Path) -> float:
    tool = program("systemd-analyze", "systemd", "/usr/bin")
    found = re.search(r"exposure level for \S+: ([\d.]+)", said(tool, "security", "--offline=true", unit))
    assert found is not None
    return float(found.group(1))


def nginx(folder: Path) -> str:
    tool = program("nginx", "nginx-light", "/usr/sbin")
    return said(tool, "-t", "-q", "-e", "stderr", "-c", folder / "front/nginx.conf")


def haproxy(folder: Path) -> str:
    found = said(program("haproxy", "haproxy", "/usr/sbin"), "-c", "-f", folder / "front/haproxy.cfg")
    return found.removesuffix("Configuration file is valid")


def keepalived(config: Path) -> str:
    """Its status says nothing (143 with every script): the log must be empty."""
    tool = program("keepalived", "keepalived", "/usr/sbin")
    log = config.with_suffix(".log")
    subprocess.run(
        ["setsid", "-w", tool, f"--config-test={log}", "-f", config],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert log.exists(), "keepalived wrote no log: it did not run"
    return log.read_text().strip()


def nft(rules: Path) -> str:
    return said(program("nft", "nftables", "/usr/sbin"), "-c", "-f", rules)


def planted(file: Path, old: str, new: str, folder: Path) -> Path:
    """A copy of the bundle that `file` is in, with a mistake in it; the copy of the bundle."""
    top = next(path for path in file.parents if (path / "settings.sh").exists())
    copy = folder / "planted"
    shutil.copytree(top, copy, symlinks=True)
    place = copy / file.relative_to(top)
    text = place.read_text()
    assert old in text
    place.write_text(text.replace(old, new, 1))
    return copy


@pytest.mark.parametrize("kind", ["edge", "pair-nginx"])
def test_scripts_pass_shellcheck(bundles: dict[str, Path], kind: str) -> None:
    assert shellcheck(bundles[kind]) == ""


def test_shellcheck_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = planted(bundles["edge"] / "install.sh", 'stage "$here"', "stage $here", tmp_path)
    assert "SC2086" in shellcheck(copy)


@pytest.mark.parametrize("kind", KINDS)
def test_units_pass_systemd(bundles: dict[str, Path], kind: str) -> None:
    assert systemd_verify(bundles[kind]) == ""
    scores = {unit.name: exposure(unit) for unit in (bundles[kind] / "systemd").glob("*.service")}
    assert scores and all(score < EXPOSURE_MOST for score in scores.values()), scores


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("Restart=always", "Restart=sometimes", "ignoring"),
        ("MemoryHigh=", "MemoryHihg=", "Unknown key"),
        ("Slice=sextant-serving.slice", "Slice=sextant-serving", "ignoring"),
        ("/venv/bin/sextant up", "/venv/bin/sexton up", "not executable"),
    ],
)
def test_systemd_bites(bundles: dict[str, Path], tmp_path: Path, old: str, new: str, found: str) -> None:
    copy = planted(bundles["edge"] / "systemd/sextant.service", old, new, tmp_path)
    assert found in systemd_verify(copy)


def test_exposure_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = planted(bundles["edge"] / "systemd/sextant.service", "User=sextant\n", "", tmp_path)
    unit = copy / "systemd/sextant.service"
    kept = [line for line in unit.read_text().splitlines() if "SystemCall" not in line and "Cap" not in line]
    unit.write_text("\n".join(kept) + "\n")
    assert exposure(unit) > EXPOSURE_MOST


@pytest.mark.parametrize("kind", ["embedded-nginx", "r1", "distilled-finance", "pair-nginx"])
def test_nginx_takes_the_front(bundles: dict[str, Path], kind: str) -> None:
    assert nginx(bundles[kind]) == ""


def test_nginx_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = planted(bundles["pair-nginx"] / "front/nginx.conf", "least_conn;", "least_con;", tmp_path)
    assert "unknown directive" in nginx(copy)


@pytest.mark.parametrize("kind", ["embedded-haproxy", "pair-haproxy"])
def test_haproxy_takes_the_front(bundles: dict[str, Path], kind: str) -> None:
    assert haproxy(bundles[kind]) == ""


def test_haproxy_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    front = bundles["pair-haproxy"] / "front/haproxy.cfg"
    copy = planted(front, "default_backend gateway", "default_backend gatway", tmp_path)
    assert "unable to find required default_backend" in haproxy(copy)


@pytest.mark.parametrize("number", [0, 1])
def test_keepalived_takes_the_pair(bundles: dict[str, Path], number: int) -> None:
    assert keepalived(_here(bundles["pair-nginx"] / f"hosts/server-{number}/keepalived.conf")) == ""


def test_keepalived_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    config = _here(bundles["pair-nginx"] / "hosts/server-0/keepalived.conf")
    wrong = tmp_path / "keepalived.conf"
    wrong.write_text(config.read_text().replace("advert_int 0.1", "advert_int fast"))
    assert "Advert interval" in keepalived(wrong)


@pytest.mark.parametrize("kind", ["embedded-nginx", "r1", "pair-nginx"])
def test_nft_takes_the_rules(bundles: dict[str, Path], kind: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(reason="nft -c wants CAP_NET_ADMIN")
    assert nft(bundles[kind] / "front/sextant.nft") == ""


def test_nft_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip(reason="nft -c wants CAP_NET_ADMIN")
    copy = planted(bundles["pair-nginx"] / "front/sextant.nft", "tcp dport", "tcp port", tmp_path)
    assert "syntax error" in nft(copy / "front/sextant.nft")


def _here(config: Path) -> Path:
    """That configuration for an interface that this machine has."""
    names = sorted(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
    if not names:
        pytest.skip(reason="this machine has no network interface but the loopback, which VRRP refuses")
    here = config.with_name("here.conf")
    here.write_text(config.read_text().replace("eth0", names[0]))
    return here
