"""What is written for servers passes the tools that will read it, and each check finds a planted mistake.

The runs are the product's own, those of `sextant verify`: shellcheck, systemd-analyze (verify and security),
nginx, haproxy, keepalived, nft.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pytest
from tests.render.host_bundles import certificate, laid_out, orders

from servers import program
from sextant.operations.verify import host_programs
from sextant.operations.verify.running import Bench

KINDS = (
    "embedded-nginx", "embedded-haproxy", "r1", "r1-sglang", "distilled-finance", "triton",
    "triton-trtllm", "trtllm",
    "pair-nginx", "pair-haproxy", "edge", "edge-tls",
)  # fmt: skip
Runs = Callable[[Bench, str, Sequence[Path]], Iterable[tuple[Path, str]]]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of all kinds, with paths of an installation below `root`."""
    found = {}
    for kind, made in orders().items():
        found[kind] = tmp_path_factory.mktemp(kind)
        root = laid_out(made, found[kind])
        certificate(root / "etc/sextant/tls")
    return found


def judged(run: Runs, program_name: str, package: str, folder: Path, *patterns: str) -> str:
    """What the product's own run of a validator says of a bundle that is laid out; empty: nothing."""
    tool = program(program_name, package, "/usr/bin:/usr/sbin")
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    assert paths, f"{folder} has no {patterns}"
    return "\n".join(said for _, said in run(Bench(folder, folder / "root", ()), tool, paths) if said)


def shellcheck(folder: Path) -> str:
    return judged(host_programs.shellcheck, "shellcheck", "shellcheck", folder, "*.sh")


def systemd_verify(folder: Path) -> str:
    return judged(host_programs.systemd_verify, "systemd-analyze", "systemd", folder, "systemd/*")


def exposure(folder: Path) -> str:
    return judged(host_programs.systemd_security, "systemd-analyze", "systemd", folder, "systemd/*.service")


def nginx(folder: Path) -> str:
    return judged(host_programs.nginx, "nginx", "nginx-light", folder, "front/nginx.conf")


def haproxy(folder: Path) -> str:
    return judged(host_programs.haproxy, "haproxy", "haproxy", folder, "front/haproxy.cfg")


def keepalived(folder: Path, pattern: str) -> str:
    if not [path for path in Path("/sys/class/net").iterdir() if path.name != "lo"]:
        pytest.skip(reason="this machine has no network interface but the loopback, which VRRP refuses")
    return judged(host_programs.keepalived, "keepalived", "keepalived", folder, pattern)


def nft(folder: Path) -> str:
    tool = program("nft", "nftables", "/usr/sbin")
    if os.geteuid() != 0:
        pytest.skip(reason="nft -c wants CAP_NET_ADMIN")
    bench = Bench(folder, folder / "root", ("env",))
    return "\n".join(said for _, said in host_programs.nft(bench, tool, [folder / "front/sextant.nft"]))


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
    assert exposure(bundles[kind]) == ""


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
    assert "exposure level" in exposure(copy)


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
    assert keepalived(bundles["pair-nginx"], f"hosts/server-{number}/keepalived.conf") == ""


def test_keepalived_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    config = bundles["pair-nginx"] / "hosts/server-0/keepalived.conf"
    copy = planted(config, "advert_int 0.1", "advert_int fast", tmp_path)
    assert "Advert interval" in keepalived(copy, "hosts/server-0/keepalived.conf")


@pytest.mark.parametrize("kind", ["embedded-nginx", "r1", "pair-nginx"])
def test_nft_takes_the_rules(bundles: dict[str, Path], kind: str) -> None:
    assert nft(bundles[kind]) == ""


def test_nft_bites(bundles: dict[str, Path], tmp_path: Path) -> None:
    copy = planted(bundles["pair-nginx"] / "front/sextant.nft", "tcp dport", "tcp port", tmp_path)
    assert "syntax error" in nft(copy)
