"""The edge bundle of this machine's processors: signed, installed, measured, upgraded, rolled back, removed.

Real: the signature, the scripts, the wheels, the model from the signed folder, the processes. Not here:
systemd as process 1 (see `unit_runner.py`).
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

import sextant
from install.conftest import Server, write_bundle
from stack import free_ports

MODEL = Path(sextant.__file__).parent / "models/nano/sextant-nano.gguf"
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: box}}
spec:
  mode: edge
  model: {{name: nano, source: {model}{more}}}
  engine: {{kind: embedded}}
  gateway: {{port: {port}}}
  control: {{port: {control}}}
"""


class Maker:
    """Who makes folders for the box and signs them."""

    def __init__(self, folder: Path, wheels: Path) -> None:
        self.folder, self.wheels = folder, wheels
        self.ports = free_ports(2)
        for name in ("release", "stranger"):
            private = folder / f"{name}.key"
            subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", private], check=True)
            subprocess.run(
                ["openssl", "pkey", "-in", private, "-pubout", "-out", folder / f"{name}.pub"], check=True
            )

    def kit(
        self, name: str, *, model: bytes = b"", more: str = "", sections: str = "", signer: str = "release"
    ) -> Path:
        """A folder as it goes onto a stick. `model` instead of the real one; `more` of the model, and other
        `sections` of the document; no signer: not signed."""
        port, control = self.ports
        file = f"{name}.gguf"
        text = DOCUMENT.format(model=file, more=more, port=port, control=control) + sections.lstrip("\n")
        kit = write_bundle(text, self.folder / name)
        (kit / "models").mkdir()
        if model:
            (kit / "models" / file).write_bytes(model)
        else:
            shutil.copy(MODEL, kit / "models" / file)
        shutil.copytree(self.wheels, kit / "wheels", copy_function=shutil.copyfile)
        if signer:
            subprocess.run([kit / "sign.sh", self.folder / f"{signer}.key"], check=True)
        return kit


def test_a_box_from_the_stick_to_its_end(server: Server, wheels: Path, tmp_path: Path) -> None:
    maker = Maker(tmp_path, wheels)
    first = maker.kit("first")
    _refused_before_anything(server, maker, first)
    done = server.run(first / "install-offline.sh", "--trust", str(tmp_path / "release.pub"))
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    latency = json.loads((server.state / "latency.json").read_text())
    assert latency["model"] == "nano" and 0 < latency["p50_ms"] <= latency["p99_ms"]
    assert latency["meets_limit"] == (latency["p99_ms"] <= 50)
    assert f"p99 {latency['p99_ms']:.1f} ms" in done.stdout
    assert "= 125" in _asked(server)
    assert (server.current / "models/first.gguf").exists()

    release = server.current.readlink().name
    upgrade = server.current / "bundle/upgrade.sh"
    for name, signer, said in (
        ("unsigned", "", "it was not signed"),
        ("foreign", "stranger", "does not fit the key"),
    ):
        done = server.run(upgrade, str(maker.kit(name, signer=signer)))
        assert done.returncode == 1 and said in done.stderr, done.stdout + done.stderr
    assert server.current.readlink().name == release
    broken = maker.kit("broken", model=b"GGUF" + bytes(64))
    done = server.run(broken / "upgrade.sh")
    assert done.returncode == 1 and "serves again" in done.stderr, done.stdout + done.stderr
    assert server.current.readlink().name == release and "= 125" in _asked(server)

    done = server.run(upgrade, str(maker.kit("second", more=", aliases: [deepseek-chat]")))
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert (server.current / "models/second.gguf").exists()
    done = server.run(server.current / "bundle/rollback.sh")
    assert done.returncode == 0, done.stdout + done.stderr + server.logs()
    assert server.current.readlink().name == release and "= 125" in _asked(server)
    _removed(server, first)


def _refused_before_anything(server: Server, maker: Maker, first: Path) -> None:
    done = server.run(first / "install.sh")
    assert done.returncode == 1 and "--trust" in done.stderr
    done = server.run(first / "install.sh", "--trust", str(maker.folder / "stranger.pub"))
    assert done.returncode == 1 and "does not fit the key" in done.stderr
    model = first / "models/first.gguf"
    whole = model.read_bytes()
    model.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    done = server.run(first / "install.sh", "--trust", str(maker.folder / "release.pub"))
    assert done.returncode == 1 and "was changed" in done.stderr
    model.write_bytes(whole)
    (first / "extra").write_text("not signed")
    done = server.run(first / "install.sh", "--trust", str(maker.folder / "release.pub"))
    assert done.returncode == 1 and "exactly the files" in done.stderr
    (first / "extra").unlink()
    assert not (server.root / "etc/sextant").exists() and not server.current.exists()


def _asked(server: Server) -> str:
    return server.sextant("chat", "What is 58 + 67?")


def _removed(server: Server, kit: Path) -> None:
    done = server.run(kit / "uninstall.sh")
    assert done.returncode == 0 and "its data stays" in done.stdout
    assert (server.state / "ledger.db").exists() and not (server.root / "opt/sextant").exists()
    done = server.run(kit / "uninstall.sh", "--purge")
    assert done.returncode == 0
    kept = ("unit-runner", "systemctl")
    left = [p for p in server.root.rglob("*") if not p.is_dir() and not any(part in kept for part in p.parts)]
    assert left == []
