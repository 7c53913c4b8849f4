"""A repository whose commits mean no good, and one that is followed for years."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from sextant.base.errors import Permanent, Retryable
from sextant.operations.git_source import GitSource, Wish
from stack_under_test import free_port, listening, until

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
    made.check(commit, after=git(work, "rev-parse", "HEAD~1"))
    left = [file for file in (repository / "objects").glob("??/*") if len(file.name) == 38]
    assert len(left) < 100


def refused(made: GitSource, commit: str) -> str:
    """Why `commit` is not taken; nothing of it is left then."""
    with pytest.raises(Permanent) as raised:
        made.fetch()
        made.check(commit)
    folder = made._folder
    assert not (folder / "incoming.git").exists()
    objects = git(folder / "repository.git", "cat-file", "--batch-all-objects", "--batch-check")
    assert commit not in objects
    return raised.value.message


def test_more_than_is_allowed_is_refused_while_it_comes_and_nothing_of_it_stays(
    tmp_path: Path, work: Path
) -> None:
    (work / "sextant.yaml").write_text("a: 1")
    good = committed(work)
    made = bounded(tmp_path, work)
    made.fetch()
    made.check(good)
    (work / "model.gguf").write_bytes(os.urandom(3_000_000))
    assert "has more than 1 MiB in its last 50 commits" in refused(made, committed(work))
    sizes = [path.stat().st_size for path in (tmp_path / "source").rglob("*") if path.is_file()]
    assert sum(sizes) < 1_000_000
    (work / "model.gguf").unlink()
    git(work, "reset", "--quiet", "--hard", good)
    (work / "sextant.yaml").write_text("a: 2")
    commit = committed(work)
    assert made.fetch() == commit
    made.check(commit, after=good)
    assert made.document(commit)[1] == "a: 2"


def bounded(tmp_path: Path, work: Path) -> GitSource:
    made = GitSource(tmp_path / "source", Wish(str(work), "main", mib_max=1))
    made.open()
    return made


def test_little_that_unfolds_into_much_is_refused_before_it_is_laid_out(tmp_path: Path, work: Path) -> None:
    (work / "zeros").write_bytes(bytes(5_000_000))
    assert "have 4 MiB, expected at most 1" in refused(bounded(tmp_path, work), committed(work))


def test_a_few_objects_that_stand_for_billions_of_files_are_refused(tmp_path: Path, work: Path) -> None:
    made = source(tmp_path, work)
    blob = git(work, "hash-object", "-w", "--stdin", given=b"x")
    tree = git(work, "mktree", given="".join(f"100644 blob {blob}\tf{n}\n" for n in range(10)).encode())
    for _ in range(9):
        tree = git(work, "mktree", given="".join(f"040000 tree {tree}\td{n}\n" for n in range(10)).encode())
    commit = git(work, "commit-tree", tree, "-m", "Ten billion files")
    git(work, "update-ref", "refs/heads/main", commit)
    assert "more than 10,000 files" in refused(made, commit)


def test_what_is_not_signed_leaves_nothing_behind(tmp_path: Path, work: Path) -> None:
    (tmp_path / "signers").touch()
    (work / "sextant.yaml").write_text("a: 1")
    commit = committed(work)
    made = GitSource(tmp_path / "source", Wish(str(work), "main", signers=str(tmp_path / "signers")))
    made.open()
    assert "has no good signature" in refused(made, commit)


def test_nothing_of_a_repository_ever_runs(
    tmp_path: Path, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hooks of a repository and of the user's template, a filter of the user's that a commit asks for, and a
    submodule's address."""
    ran = tmp_path / "ran"
    home = tmp_path / "home"
    hooks = home / "template" / "hooks"
    hooks.mkdir(parents=True)
    for folder in (hooks, work / ".git" / "hooks"):
        folder.mkdir(exist_ok=True)
        for name in ("post-checkout", "post-merge", "reference-transaction", "post-index-change"):
            hook = folder / name
            hook.write_text(f"#!/bin/sh\necho {name} >> {ran}\n")
            hook.chmod(0o755)
    (home / ".gitconfig").write_text(
        f"[init]\ntemplateDir = {home / 'template'}\n[core]\nhooksPath = {hooks}\n"
        f'[filter "evil"]\nsmudge = echo filter >> {ran}; cat\nrequired = true\n'
    )
    (work / "sextant.yaml").write_text("a: 1")
    (work / ".gitattributes").write_text("* filter=evil\n")
    (work / ".gitmodules").write_text(f'[submodule "s"]\npath = s\nurl = {tmp_path / "no"}\nupdate = merge\n')
    git(work, "add", "--all")
    git(work, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},s")
    ran.unlink(missing_ok=True)
    git(work, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--message", "x")
    commit = git(work, "rev-parse", "HEAD")
    ran.unlink(missing_ok=True)
    monkeypatch.setenv("HOME", str(home))
    made = source(tmp_path, work)
    assert made.fetch() == commit
    made.check(commit)
    file, text = made.document(commit)
    assert text == "a: 1"
    assert list((file.parent / "s").iterdir()) == []
    assert not ran.exists()


def test_a_folder_that_is_no_repository_is_called_so(tmp_path: Path) -> None:
    made = GitSource(tmp_path / "source", Wish(str(tmp_path / "none")))
    made.open()
    with pytest.raises(Retryable, match="there is no git repository of that name on this machine"):
        made.newest()


def test_a_real_server_that_sends_too_much_is_cut_off(tmp_path: Path, work: Path) -> None:
    """Over git's own protocol, as from elsewhere."""
    (work / "sextant.yaml").write_text("a: 1")
    (work / "model.gguf").write_bytes(os.urandom(3_000_000))
    commit = committed(work)
    port = free_port()
    daemon = subprocess.Popen(
        ["git", "daemon", "--reuseaddr", "--listen=127.0.0.1", f"--port={port}", "--export-all",
         f"--base-path={tmp_path}"],
        start_new_session=True,
    )  # fmt: skip
    try:
        until(lambda: listening(port), "git's daemon listens")
        url = f"git://127.0.0.1:{port}/shop"
        small = GitSource(tmp_path / "small", Wish(url, "main", mib_max=1))
        small.open()
        assert small.newest() == commit
        assert f"{url} has more than 1 MiB" in refused(small, commit)
        large = GitSource(tmp_path / "large", Wish(url, "main"))
        large.open()
        assert large.fetch() == commit
        large.check(commit)
        assert large.document(commit)[1] == "a: 1"
    finally:
        os.killpg(daemon.pid, signal.SIGKILL)
        daemon.wait(10)


def test_what_git_holds_for_an_attack_is_refused_for_good(tmp_path: Path, work: Path) -> None:
    (work / ".gitmodules").write_text('[submodule "s"]\npath = s\nurl = x\nupdate = !touch /tmp/owned\n')
    made = source(tmp_path, work)
    assert "holds what git refuses" in refused(made, committed(work))
