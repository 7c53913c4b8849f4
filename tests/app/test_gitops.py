"""A model version is one commit away: `sextant follow` on a bare repository and a stack that serves."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gitops_under_test import NANO, Repository, copy_of_nano, document, follow, model, wanted

from answers_under_load import Client, check_rows, load, usage_rows
from sextant.app.applying import apply_document
from sextant.app.state import StateDir
from sextant.base.lifeline import PARENT_VARIABLE
from sextant.store.ledger_reading import ledger_view
from stack_under_test import SEXTANT, Stack, alive, sextant, stack, until

pytestmark = pytest.mark.slow

FIRST = document(model("nano-1.0.0"))


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    made = Repository(tmp_path)
    made.commit(FIRST, "Serve nano 1.0.0")
    return made


@pytest.fixture
def up(tmp_path: Path, repository: Repository) -> Iterator[Stack]:
    """A stack that serves the first commit, and says so."""
    file = tmp_path / "first.yaml"
    file.write_text(FIRST)
    with stack(document=file) as made:
        done = follow(made.root, repository)
        assert done.returncode == 0, done.stdout + done.stderr
        yield made


def sync(up: Stack) -> dict[str, Any]:
    return json.loads((up.root / "source" / "sync.json").read_bytes())


def applied(up: Stack) -> str:
    found = up.status().get("applied")
    return found["revision"] if found else ""


def models_in_ledger(up: Stack) -> list[str]:
    with ledger_view(up.root / "ledger.db") as view:
        return [row[0] for row in view.query("SELECT model FROM usage ORDER BY request_id")]


class Watch:
    """`sextant follow` as a service runs it."""

    def __init__(self, up: Stack, repository: Repository, *options: str) -> None:
        self.out = up.root / "logs" / "follow.log"
        with self.out.open("ab") as stream:
            self.process = subprocess.Popen(
                [*SEXTANT, "follow", str(repository.bare), f"--state={up.root}", *options],
                stdout=stream,
                stderr=stream,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
            )
        until(lambda: "following" in self.said(), "it has begun")

    def said(self) -> str:
        return self.out.read_text()

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def watch(up: Stack, repository: Repository) -> Iterator[Watch]:
    made = Watch(up, repository, "--every=0.3")
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait(10)


def test_a_commit_changes_the_model_under_load_and_no_request_is_lost(
    up: Stack, repository: Repository, watch: Watch, tmp_path: Path
) -> None:
    with load(up, [Client(1), Client(2), Client(3)]) as seen:
        until(lambda: len(models_in_ledger(up)) > 3, "the old version serves")
        commit = repository.commit(
            document(model("nano-1.1.0", copy_of_nano(tmp_path, "b.gguf"))), "Serve 1.1"
        )
        until(lambda: "nano-1.1.0" in models_in_ledger(up), "a token of the new version is served")
        until(lambda: "engine-nano-1.0.0-0" not in up.processes(), "the old engine has ended")
    assert (seen.refused, seen.broken) == (0, 0), seen.statuses
    check_rows(seen, usage_rows(up.root / "ledger.db", "ok"))
    until(lambda: sync(up)["applied"] == commit, "it is noted")
    assert applied(up) == commit
    assert f"{commit[:12]} Serve 1.1" in watch.said()
    metrics = up.ask("GET", "/metrics", port=up.control_port).body.decode()
    assert f'sextant_follow_applied{{revision="{commit}"}} 1.0' in metrics
    assert "sextant_follow_in_step 1.0" in metrics
    shown = sextant("status", f"--state={up.root}").stdout
    assert f"Applied     followed, {commit[:12]} of {repository.bare}" in shown
    assert f"Follows     {repository.bare}: in step; answered" in shown
    assert watch.end() == 0


def damaged(folder: Path) -> str:
    data = bytearray(NANO.read_bytes())
    file = folder / "damaged.gguf"
    file.write_bytes(data[: len(data) // 2])
    return document(model("damaged", file))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (lambda _: "spec: [", "not valid YAML"),
        (lambda _: document(model("nano-1.0.0"), colour="blue"), "colour"),
        (lambda folder: document(model("gone", folder / "gone.gguf")), "gone.gguf"),
        (damaged, "damaged.gguf"),
    ],
    ids=["yaml", "unknown field", "no such file", "damaged file"],
)
def test_a_bad_commit_never_reaches_what_serves_and_the_next_good_one_does(
    up: Stack, repository: Repository, tmp_path: Path, text: Any, said: str
) -> None:
    good = applied(up)
    pids = up.pids()
    bad = repository.commit(text(tmp_path), "A mistake")
    done = follow(up.root, repository)
    assert done.returncode == 1
    assert said in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert (applied(up), up.pids()) == (good, pids)
    state = sync(up)
    assert (state["failed"], state["applied"]) == (bad, good)
    assert said in state["trouble"]
    assert up.chat().status == 200
    shown = sextant("status", f"--state={up.root}")
    assert shown.returncode == 0
    assert f"behind {bad[:12]}" in shown.stdout
    next_good = repository.commit(FIRST, "Take it back")
    assert follow(up.root, repository).returncode == 0
    assert applied(up) == next_good
    assert sync(up)["trouble"] == ""


def test_a_failed_commit_is_tried_again_only_when_somebody_asks(
    up: Stack, repository: Repository, watch: Watch, tmp_path: Path
) -> None:
    late = tmp_path / "late.gguf"
    commit = repository.commit(document(model("late", late)), "A file that comes later")
    until(lambda: sync(up)["failed"] == commit, "it has failed")
    tries = sync(up)["failures"]
    reached = sync(up)["reached_ms"]
    until(lambda: sync(up)["reached_ms"] > reached + 700, "it has looked twice more")
    assert sync(up)["failures"] == tries
    late.write_bytes(NANO.read_bytes())
    watch.process.send_signal(signal.SIGHUP)
    until(lambda: applied(up) == commit, "it is applied when asked")


def test_a_repository_that_is_gone_changes_nothing_and_comes_back(
    up: Stack, repository: Repository, tmp_path: Path
) -> None:
    good = applied(up)
    away = tmp_path / "away.git"
    repository.bare.rename(away)
    done = sextant("follow", str(repository.bare), "--once", f"--state={up.root}")
    assert done.returncode == 1
    assert "cannot be had" in done.stdout
    assert (applied(up), up.chat().status) == (good, 200)
    assert "cannot be had" in sextant("status", f"--state={up.root}").stdout
    away.rename(repository.bare)
    commit = repository.commit(document(model("nano-1.2.0")), "Back")
    assert follow(up.root, repository).returncode == 0
    assert applied(up) == commit


def test_a_rewritten_branch_is_refused_until_it_is_meant(up: Stack, repository: Repository) -> None:
    good = applied(up)
    repository.git("checkout", "--quiet", "--orphan", "other")
    repository.git("branch", "--quiet", "-D", "main")
    repository.git("branch", "--quiet", "-m", "main")
    other = repository.commit(document(model("nano-9.0.0")), "Another history")
    done = follow(up.root, repository)
    assert done.returncode == 1
    assert "was rewritten" in done.stdout and "--allow-rewrite" in done.stdout
    assert applied(up) == good
    assert follow(up.root, repository, "--allow-rewrite").returncode == 0
    assert applied(up) == other


def test_only_commits_of_known_signers_are_followed(
    up: Stack, repository: Repository, tmp_path: Path
) -> None:
    def key(name: str) -> Path:
        file = tmp_path / name
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(file)],
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return file

    def signed_by(file: Path) -> list[str]:
        return ["-c", "gpg.format=ssh", "-c", f"user.signingkey={file}", "-c", "commit.gpgsign=true"]

    known, stranger = key("known"), key("stranger")
    signers = tmp_path / "signers"
    signers.write_text(f'operator@example.com namespaces="git" {known.with_suffix(".pub").read_text()}')
    good = applied(up)
    texts = [document(model(f"nano-{number}.0.0")) for number in (2, 3, 4)]
    repository.commit(texts[0], "Unsigned")
    done = follow(up.root, repository, f"--signers={signers}")
    assert done.returncode == 1 and "no good signature" in done.stdout
    repository.commit(texts[1], "A stranger's", *signed_by(stranger))
    done = follow(up.root, repository, f"--signers={signers}")
    assert done.returncode == 1 and "no good signature" in done.stdout
    assert applied(up) == good
    commit = repository.commit(texts[2], "Signed", *signed_by(known))
    done = follow(up.root, repository, f"--signers={signers}")
    assert done.returncode == 0, done.stdout
    assert applied(up) == commit


def test_killed_in_the_middle_the_next_one_completes(
    up: Stack, repository: Repository, watch: Watch, tmp_path: Path
) -> None:
    commit = repository.commit(document(model("nano-5.0.0", copy_of_nano(tmp_path, "five.gguf"))), "Five")
    until(lambda: f"{commit[:12]} Five" in watch.said(), "it has begun with the commit")
    watch.end(signal.SIGKILL)
    (up.root / "source" / "repository.git" / "shallow.lock").touch()  # as a git that is killed leaves one
    half = up.root / "source" / "checkouts" / "half.part"
    half.mkdir(exist_ok=True)
    done = follow(up.root, repository)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (applied(up), sync(up)["applied"]) == (commit, commit)
    assert not half.exists()
    assert up.chat().status == 200


def test_what_drifts_is_brought_back(up: Stack, repository: Repository, tmp_path: Path) -> None:
    commit = applied(up)
    by_hand = document(model("by-hand"))
    apply_document(StateDir(up.root), wanted(by_hand, tmp_path), lambda _: None)
    assert applied(up) == ""
    done = follow(up.root, repository)
    assert done.returncode == 0
    assert "serves something else" in done.stdout
    assert applied(up) == commit
    until(lambda: "engine-by-hand-0" not in up.processes(), "what was put there by hand has ended")


def test_another_document_of_the_commit_that_runs_is_something_else(
    up: Stack, repository: Repository
) -> None:
    commit = repository.commit(document(model("nano-1.0.0")))
    assert follow(up.root, repository).returncode == 0
    wrong = follow(up.root, repository, "--path", "sextnt.yaml")
    assert wrong.returncode == 1
    assert f"sextnt.yaml of {commit[:12]} cannot be read" in wrong.stdout
    assert follow(up.root, repository, "--path", "sextnt.yaml").returncode == 1
    assert follow(up.root, repository).returncode == 0
    assert applied(up) == commit


def test_a_model_in_the_repository_outlives_the_commits_after_it(up: Stack, repository: Repository) -> None:
    shutil.copyfile(NANO, repository.work / "model.gguf")
    text = document(model("inside", "model.gguf"))
    first = repository.commit(text, "A model beside its document")
    assert follow(up.root, repository).returncode == 0
    pid = up.processes()["engine-inside-0"]["pid"]
    assert alive(pid)
    for number in range(3):
        repository.commit(text, f"Nothing changes {number}")
        assert follow(up.root, repository).returncode == 0
    assert up.chat().status == 200
    file = Path(up.processes()[next(n for n in up.processes() if n.startswith("engine-"))]["file"])
    assert file.is_file()
    kept = [path.name for path in (up.root / "source" / "checkouts").iterdir()]
    assert len(kept) <= 3
    assert first not in kept or file.is_relative_to(up.root / "source" / "checkouts" / first)


def test_only_one_follows_and_nobody_without_a_deployment(
    up: Stack, repository: Repository, watch: Watch, tmp_path: Path
) -> None:
    done = follow(up.root, repository)
    assert done.returncode == 1
    assert f"kill -HUP {watch.process.pid}" in done.stderr
    done = follow(tmp_path / "nowhere", repository)
    assert done.returncode == 1
    assert "nothing runs" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("ext::sh -c true",), "no repository"),
        (("https://me:secret@example.com/shop.git",), "holds a password"),
        (("/tmp", "--path=../sextant.yaml"), "--path"),
        (("/tmp", "--branch=-x"), "no name of a branch"),
        (("/tmp", "--signers=/no/such/file"), "signers"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = sextant("follow", *arguments, "--once", f"--state={tmp_path / 's'}")
    assert done.returncode == 1
    assert said in done.stderr
    assert "secret" not in done.stderr
