"""SoftHSM, a software token behind PKCS#11, in a folder of a test: tokens as a real HSM shows them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
PIN = "246813"


@dataclasses.dataclass(frozen=True)
class SoftHsm:
    """Tokens in a folder, and documents that name them."""

    folder: Path

    @property
    def conf(self) -> Path:
        return self.folder / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        return self.folder / "pin"

    def token(self, label: str) -> None:
        """Makes a token."""
        made = ["softhsm2-util", "--init-token", "--free", "--label", label, "--so-pin", "1357", "--pin", PIN]
        subprocess.run(
            made, check=True, capture_output=True, env={**os.environ, "SOFTHSM2_CONF": str(self.conf)}
        )

    def settings(self, token: str = "main", **more: Any) -> dict[str, Any]:
        """`spec.security.hsm` of a document."""
        return {
            "module": MODULE,
            "token": token,
            "pin": f"file:{self.pin_file}",
            "environment": {"SOFTHSM2_CONF": str(self.conf)},
            **more,
        }

    def document(self, token: str = "main", *, engine: dict[str, Any] | None = None, **more: Any) -> Path:
        """A document on disk, with these keys."""
        path = self.folder / "deployment.yaml"
        told = {
            "apiVersion": "sextant.dev/v1alpha1",
            "kind": "ModelDeployment",
            "metadata": {"name": "demo"},
            "spec": {
                "model": {"name": "sextant-nano"},
                "engine": engine or {"kind": "embedded"},
                "security": {"hsm": self.settings(token, **more)},
            },
        }
        path.write_text(json.dumps(told))
        return path

    def sextant(self, *words: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
        """The command line, as an operator types it."""
        command = [sys.executable, "-m", "sextant.cli.main", *map(str, words)]
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=60)


def soft_hsm(folder: Path, *tokens: str) -> SoftHsm:
    """SoftHSM in `folder`, with these tokens and the file with their PIN."""
    (folder / "tokens").mkdir(parents=True)
    made = SoftHsm(folder)
    made.conf.write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    made.pin_file.write_text(PIN)
    made.pin_file.chmod(0o600)
    for label in tokens:
        made.token(label)
    return made
