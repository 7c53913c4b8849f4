"""A bare repository on this disk with documents in it, and a stack that serves one of them."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from sextant.app.applying import Wanted
from sextant.app.plan import bundled_model_path
from stack_under_test import sextant

NANO = bundled_model_path("sextant-nano")
WHO = ("-c", "user.name=operator", "-c", "user.email=operator@example.com", "-c", "commit.gpgsign=false")


def model(
    name: str, source: Path | str = NANO, *, aliases: tuple[str, ...] = ("sextant-nano",)
) -> dict[str, Any]:
    """One entry of `spec.models`, on the embedded engine."""
    engine = {"kind": "embedded", "slots": 2, "threads": 1}
    return {"name": name, "source": str(source), "aliases": list(aliases), "engine": engine}


def document(*models: dict[str, Any], **spec: Any) -> str:
    written = {
        "apiVersion": "sextant.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "followed"},
        "spec": {"models": list(models), **spec},
    }
    return json.dumps(written, indent=1) + "\n"


def wanted(text: str, folder: Path) -> Wanted:
    return Wanted(text, "sextant.yaml", str(folder))


def copy_of_nano(folder: Path, name: str) -> Path:
    """The bundled model under another name."""
    file = folder / name
    file.write_bytes(NANO.read_bytes())
    return file


class Repository:
    """A bare repository, and a working copy that pushes to it."""

    def __init__(self, folder: Path) -> None:
        self.bare, self.work = folder / "shop.git", folder / "work"
        self.work.mkdir(parents=True)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(self.bare))
        self.git("init", "--quiet", "--initial-branch=main")
        self.git("remote", "add", "origin", str(self.bare))

    def git(self, *arguments: str) -> str:
        done = subprocess.run(
            ["git", *WHO, *arguments],
            cwd=self.work,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
            env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, text: str, message: str = "Change", *options: str) -> str:
        """Commits `text` as the document and pushes it; the commit's id."""
        (self.work / "sextant.yaml").write_text(text)
        self.git("add", "--all")
        self.git(*options, "commit", "--quiet", "--allow-empty", "--message", message)
        self.git("push", "--quiet", "--force", "origin", "main")
        return self.git("rev-parse", "HEAD")


def follow(state: Path, repository: Repository, *options: str) -> subprocess.CompletedProcess[str]:
    """One look, to its end."""
    return sextant("follow", str(repository.bare), "--once", f"--state={state}", *options)
