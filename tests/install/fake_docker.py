"""`docker` without containers, for tests: an image is an environment of Python, a container is a process.

Knows what the scripts and units of a bundle use: build, run, image inspect, image rm, compose up, stop and
down. What a container would have is not there: walls, networks, users. Every call is noted in `calls`.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(os.environ["FAKE_DOCKER"])
FLAGS = ("--rm", "--interactive", "--init", "--read-only", "--quiet")


def split(words: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Options with their values, and the rest."""
    options: dict[str, list[str]] = {}
    while words and words[0].startswith("--"):
        name = words.pop(0)
        options.setdefault(name, []).append("" if name in FLAGS else words.pop(0))
    return options, words


def place_of(image: str) -> Path:
    """Where that image is; no environment of Python may have a colon in its path."""
    return ROOT / image.replace(":", "-")


def build(words: list[str]) -> int:
    options, (context,) = split(words)
    assert Path(options["--file"][0]).read_text().count("FROM ") == 1
    assert "PIP_NO_INDEX=1" in options["--build-arg"], "the wheels are there"
    place = place_of(options["--tag"][0])
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "--quiet", "install", "--no-index", "--no-deps", "--no-compile"]
    subprocess.run([*pip, *Path(context).glob("*.whl")], check=True)
    return 0


def start(image: str, command: list[str], environment: dict[str, str]) -> int:
    path = f"{place_of(image) / 'bin'}:/usr/bin:/bin"
    child = subprocess.Popen(command, env={**environment, "PATH": path})
    signal.signal(signal.SIGTERM, lambda *_: child.terminate())
    return child.wait()


def run(words: list[str]) -> int:
    options, (image, *command) = split(words)
    assert {"--read-only", "--cap-drop", "--user"} <= set(options)
    lines = Path(options["--env-file"][0]).read_text().splitlines()
    told = dict(line.split("=", 1) for line in lines if "=" in line)
    return start(image, command, {"HOME": "/tmp", **told})


def compose(words: list[str]) -> int:
    options, (verb, *rest) = split(words)
    if verb in ("stop", "down"):
        return 0
    assert verb == "up" and "--no-deps" in rest
    whole = yaml.safe_load(Path(options["--file"][0]).read_text())
    service = whole["services"][rest[-1]]
    image = re.sub(r"\$\{(\w+)[^}]*\}", lambda found: os.environ[found[1]], service["image"])
    assert re.fullmatch(r"\$\{SEXTANT_USER.*\}", service["user"]) and re.fullmatch(
        r"\d+:\d+", os.environ["SEXTANT_USER"]
    )
    return start(image, service["command"], service["environment"])


def image(words: list[str]) -> int:
    verb, name = words
    if verb == "rm":
        shutil.rmtree(place_of(name))
    return 0 if verb == "rm" or place_of(name).exists() else 1


if __name__ == "__main__":
    with (ROOT / "calls").open("a") as calls:
        calls.write(" ".join(sys.argv[1:]) + "\n")
    verbs = {"build": build, "run": run, "compose": compose, "image": image}
    sys.exit(verbs[sys.argv[1]](sys.argv[2:]))
