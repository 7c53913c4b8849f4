"""A repository whose commits mean no good, and one that is followed for years."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from sextant.base.errors import Permanent
from sextant.operations.git_source import GitSource, Wish

WHO = ("-c", "user.name=operator", "-c", "user.email=operator@example.com", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str, given: bytes = b"") -> str:
    done = subprocess.run(
        ["git", *WHO, *arguments],
        cwd=folder,
        input=given,
        capture_output=True,
        check=True,
        timeout=60,
        env={**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"},
    )
    return done.stdout.decode().strip()


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "shop"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    return folder


def committed(work: Path, message: str = "Change") -> str:
    git(work, "add", "--all")
    git(work, "commit", "--quiet", "--allow-empty", "--message", message)
    return git(work, "rev-parse", "HEAD")


def source(tmp_path: Path, work: Path, path: str = "sextant.yaml") -> GitSource:
    made = GitSource(tmp_path / "source", Wish(str(work), "main", path))
    made.open()
    return made


@pytest.mark.parametrize(
    ("name", "target", "path"),
    [
        ("sextant.yaml", "sextant.yaml", "sextant.yaml"),
        ("sextant.yaml", "/etc/hostname", "sextant.yaml"),
        ("sextant.yaml", "../../sync.json", "sextant.yaml"),
        ("there", "../..", "there/sync.json"),
        ("there", "/etc", "there/hostname"),
        ("sextant.yaml", "nowhere", "sextant.yaml"),
        ("sextant.yaml", ".", "sextant.yaml"),
    ],
    ids=["loop", "out", "up", "up by a folder", "folder", "nowhere", "a folder"],
)
def test_a_link_for_a_document_is_a_bad_commit_and_nothing_worse(
    tmp_path: Path, work: Path, name: str, target: str, path: str
) -> None:
    (work / name).symlink_to(target)
    commit = committed(work)
    made = source(tmp_path, work, path)
    assert made.fetch() == commit
    with pytest.raises(Permanent, match=r"link|cannot be read"):
        made.document(commit)


def test_what_git_says_is_shown_without_what_moves_a_terminal(tmp_path: Path, work: Path) -> None:
    commit = committed(work, "\x1b]0;owned\x07\x1b[2Jall is well")
    made = source(tmp_path, work)
    made.fetch()
    shown = made.subject(commit)
    assert shown.isprintable() and "all is well" in shown


def test_what_nobody_needs_any_longer_is_removed_in_the_end(tmp_path: Path, work: Path) -> None:
    """git looks after a repository when it has some thousand loose objects: those of commits long gone."""
    committed(work)
    made = source(tmp_path, work)
    made.fetch()
    repository = tmp_path / "source" / "repository.git"
    blobs = b"".join(b"blob\ndata 9\n%09d" % number + b"\n" for number in range(8000))
    apart = tmp_path / "apart.git"
    git(tmp_path, "init", "--quiet", "--bare", str(apart))
    git(apart, "-c", "fastimport.unpackLimit=1000000", "fast-import", "--quiet", given=blobs)
    loose = [file for file in (apart / "objects").glob("??/*") if len(file.name) == 38]
    assert len(loose) == 8000
    for file in loose:
        target = repository / "objects" / file.parent.name / file.name
        target.parent.mkdir(exist_ok=True)
        file.rename(target)
        os.utime(target, (1_000_000_000, 1_000_000_000))
    (work / "more").write_text("x")
    commit = committed(work)
    assert made.fetch() == commit
    left = [file for file in (repository / "objects").glob("??/*") if len(file.name) == 38]
    assert len(left) < 100
    made.check(commit, after=git(work, "rev-parse", "HEAD~1"))
