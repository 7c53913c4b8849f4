"""A server as `install.sh` leaves it, but for the programs, which are this tree's."""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

from install.conftest import RUNNER, Server
from servers import PASSWORD


def as_installed(bundle: Path, *, within: tuple[str, ...] = (), role: str = "all") -> Server:
    """A scratch root with that bundle. STORE_PASSWORD is that of the tests' PostgreSQL; the certificate is
    `server.pem` with its key beside the bundle, where there is one."""
    root = Path(tempfile.mkdtemp(prefix="sx-server-"))
    systemctl = root / "systemctl"
    systemctl.write_text(f'#!/bin/sh\nexec {sys.executable} {RUNNER} "$@"\n')
    systemctl.chmod(0o755)
    etc, base, units = root / "etc/sextant", root / "opt/sextant", root / "etc/systemd/system"
    release = base / "releases/of-the-test"
    for folder in (etc / "tls", release / "bundle", units, root / "run/sextant", root / "var/lib/sextant"):
        folder.mkdir(parents=True)
    (base / "current").symlink_to("releases/of-the-test")
    (release / "venv").symlink_to(Path(sys.prefix))
    whole = [path for path in bundle.iterdir() if path.is_file()]
    for source, folder in (
        *((path, units) for path in (bundle / "systemd").iterdir()),
        *((path, etc) for part in ("front", f"hosts/{role}") for path in bundle.glob(f"{part}/*")),
        *((path, release / "bundle") for path in whole),
    ):
        text = source.read_text()
        if (
            source.suffix != ".sh" or source.name == "gateway-answers.sh"
        ):  # scripts know the root by themselves
            text = re.sub(r"/((opt|etc|var/lib|run)/sextant)", rf"{root}/\1", text)
        (folder / source.name).write_text(text)
        (folder / source.name).chmod(source.stat().st_mode)
    for file in (bundle.with_name("server.pem"), bundle.with_name("server.key")):
        if file.exists():
            (etc / "tls" / file.name).write_bytes(file.read_bytes())
    (etc / "tls/server.pem.key").symlink_to("server.key")
    (etc / "secrets.env").write_text(f"STORE_PASSWORD={PASSWORD}\n")
    (etc / "role").write_text(role)
    (etc / "installed").touch()
    return Server(root, systemctl, within)
