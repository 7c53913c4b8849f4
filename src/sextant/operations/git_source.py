"""A git repository that documents come from: a branch's newest commit, fetched, checked, laid out.

Flow 2 (deploy), before the document. Everything goes through the `git` program, so any address works that git
takes, with git's own credentials. Bounded in time, history, bytes, files and memory; hooks, filters,
submodules, prompts and unusual transports are off. What is fetched lies apart until it was checked; what is
refused is gone. git itself has no bound for what a fetch brings, so the kernel sets it: no file of git's may
grow beyond it.
Neighbour: `sextant.app.following`, which looks again and again.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

import msgspec

from sextant.base.config import child_environment, outbound_environment
from sextant.base.errors import Misconfigured, Permanent, Retryable, SextantError

LOOK_TIMEOUT_S = 30.0
FETCH_TIMEOUT_S = 600.0
LOCAL_TIMEOUT_S = 60.0
DEPTH = 50
"""Commits that are fetched: enough to see that a new one follows the old."""
DOCUMENT_BYTES_MAX = 1024 * 1024
SAID_CHARS_MAX = 300
SAID_BYTES_MAX = 4 * 1024 * 1024
FILES_MAX = 10_000
"""Files of one commit. Few objects can stand for any number of them."""
MEMORY_KIB_MAX = 4 * 1024 * 1024
"""Of one git: small objects can unfold into any size."""
MIB_MAX = 256
_MIB = 1024 * 1024
TIP = "refs/sextant/tip"
_PROTOCOLS = "file:git:http:https:ssh"
_SETTINGS = (
    "core.hooksPath=/dev/null",
    "core.fsmonitor=false",
    "gc.autoDetach=false",  # as part of a fetch, in its time
    "maintenance.autoDetach=false",
    "protocol.version=2",
    "transfer.fsckObjects=true",
    "transfer.unpackLimit=1",  # one file, so that one bound holds all
    "transfer.bundleURI=false",
    "fetch.recurseSubmodules=false",
    "submodule.recurse=false",
    "pack.threads=2",
    "core.packedGitWindowSize=64m",
    "core.packedGitLimit=256m",
    "core.bigFileThreshold=16m",  # larger ones go to the disk, not through memory
    "http.lowSpeedLimit=1000",
    "http.lowSpeedTime=30",
)
_NOTHING: Mapping[str, str] = {}
_NOBODYS = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1"}
"""No settings of the user's where git works here alone: a filter of theirs would run if a commit says so."""
_BOUNDED = 'ulimit -f "$1" && ulimit -v "$2" && shift 2 && exec "$@"'
"""Blocks of 512 bytes, and KiB: what POSIX says, and what every shell does."""
_TELLING = 'trap "" XFSZ && '
"""With this a git whose helper's file grows too large hears of it; without, it dies of it at once."""
_TOO_LARGE = "File too large"
_UNSOUND = "fsck error"
_ONLY_SSH_SIGNATURES = ("gpg.openpgp.program=false", "gpg.x509.program=false", "gpg.ssh.program=ssh-keygen")
"""A key ring of the user's may hold anybody's key; the file of signers says who counts."""
_BRANCH = re.compile(r"(?!-)[\w./+@-]{1,200}", re.ASCII)


class Wish(msgspec.Struct, frozen=True):
    """What is followed. An empty `branch` is the repository's own; `signers` is a file of allowed signers as
    `ssh-keygen` reads it, empty: signatures are not asked for."""

    url: str
    branch: str = ""
    path: str = "sextant.yaml"
    signers: str = ""
    allow_rewrite: bool = False
    mib_max: int = MIB_MAX
    """Of the fetched history, packed, and of one commit's files, each."""


class GitSource:
    """One repository, kept in `folder`. Call from one process at a time."""

    def __init__(self, folder: Path, wish: Wish) -> None:
        """Raises Misconfigured for an address, a branch or a path that cannot be meant."""
        _check(wish)
        self.wish = wish
        self._folder = folder
        self._repository = folder / "repository.git"
        self._incoming = folder / "incoming.git"
        self._checkouts = folder / "checkouts"
        self._ref = f"refs/heads/{wish.branch}" if wish.branch else "HEAD"

    def open(self) -> None:
        """Makes the folder, and clears what a run that was killed left behind. Raises Misconfigured."""
        if shutil.which("git") is None:
            raise Misconfigured("git is not installed; install it (Debian: apt install git)")
        self._checkouts.mkdir(mode=0o700, parents=True, exist_ok=True)
        for left in (self._incoming, self._folder / "before.git"):
            shutil.rmtree(left, ignore_errors=True)
        if not (self._repository / "HEAD").is_file():
            shutil.rmtree(self._repository, ignore_errors=True)
            self._init(self._repository)
        for lock in self._repository.rglob("*.lock"):
            lock.unlink(missing_ok=True)
        for half in self._checkouts.glob("*.part"):
            shutil.rmtree(half, ignore_errors=True)

    def newest(self) -> str:
        """The branch's newest commit, asked of the repository. Raises Retryable when it does not answer,
        Permanent when it has no such branch."""
        said = self._git("ls-remote", "--", self.wish.url, self._ref, timeout_s=LOOK_TIMEOUT_S, remote=True)
        for line in said.splitlines():
            commit, _, name = line.partition("\t")
            if name == self._ref:
                return commit
        branch = f"branch {self.wish.branch}" if self.wish.branch else "commit"
        raise Permanent(
            f"{self.shown} has no {branch}; push one, or name another branch", code="no_such_branch"
        )

    def fetch(self) -> str:
        """Fetches the branch's newest commit with some of its history, apart from what is there; its id. Call
        `check` next. Raises Retryable, and Permanent for more than `mib_max`."""
        shutil.rmtree(self._incoming, ignore_errors=True)
        if _bytes_in(self._repository) <= self.wish.mib_max * _MIB:
            shutil.copytree(self._repository, self._incoming, copy_function=os.link)
        else:  # years of commits: anew, with those of today alone
            self._init(self._incoming)
        refspec = f"+{self._ref}:{TIP}"
        try:
            self._git(
                "fetch", "--quiet", "--no-tags", f"--depth={DEPTH}", "--no-write-fetch-head", "--force",
                "--no-recurse-submodules", "--", self.wish.url, refspec,
                timeout_s=FETCH_TIMEOUT_S, remote=True,
            )  # fmt: skip
            return self._git("rev-parse", "--verify", f"{TIP}^{{commit}}").strip()
        except SextantError:
            shutil.rmtree(self._incoming, ignore_errors=True)
            raise

    def check(self, commit: str, *, after: str = "") -> None:
        """Whether `commit` may be followed: signed by who counts, one that follows `after`, the commit that
        was applied before, and of a bounded size laid out. What was fetched is kept from then on. Raises
        Permanent with the reason, and then nothing of it is left."""
        try:
            if self.wish.signers:
                self._check_signature(commit)
            if after and after != commit and not self.wish.allow_rewrite and not self._follows(commit, after):
                raise Permanent(
                    f"{commit[:12]} does not follow {after[:12]}, which is applied, within {DEPTH} commits: "
                    f"the branch was rewritten; if that is meant, run `sextant follow … --once "
                    f"--allow-rewrite`",
                    code="rewritten",
                )
            self._check_files(commit)
        except SextantError:
            shutil.rmtree(self._incoming, ignore_errors=True)
            raise
        if self._incoming.is_dir():
            before = self._folder / "before.git"
            self._repository.rename(before)
            self._incoming.rename(self._repository)
            shutil.rmtree(before, ignore_errors=True)

    def checkout(self, commit: str) -> Path:
        """The commit's files, in a folder of their own that no later call changes."""
        target = self._checkouts / commit
        if target.is_dir():
            return target
        part = self._checkouts / f"{commit}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(mode=0o700)
        apart = {"GIT_INDEX_FILE": str(self._folder / "index.part"), "GIT_WORK_TREE": str(part)}
        most = self.wish.mib_max * _MIB
        self._git("read-tree", commit, extra=apart, bytes_max=most)
        self._git("checkout-index", "--all", "--force", f"--prefix={part}/", extra=apart, bytes_max=most)
        part.rename(target)
        return target

    def document(self, commit: str) -> tuple[Path, str]:
        """The document's file in the commit's folder, and its text. Raises Permanent."""
        folder = self.checkout(commit)
        file = folder / self.wish.path
        where = f"{self.wish.path} of {commit[:12]}"
        try:
            inside = file.resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # the latter, until Python 3.13, for links that lead to each other
            inside = False
        if not inside:
            raise Permanent(f"{where} is a link that leads out of the repository", code="bad_document")
        try:
            with file.open("rb") as opened:
                data = opened.read(DOCUMENT_BYTES_MAX + 1)
            if len(data) > DOCUMENT_BYTES_MAX:
                raise Permanent(f"{where} has more than {DOCUMENT_BYTES_MAX:,} bytes", code="bad_document")
            return file, data.decode("utf-8-sig")
        except OSError as error:
            raise Permanent(
                f"{where} cannot be read: {error.strerror}; `--path` says where the document is",
                code="bad_document",
            ) from None
        except UnicodeDecodeError:
            raise Permanent(f"{where} is not UTF-8 text", code="bad_document") from None

    def subject(self, commit: str) -> str:
        """The first line of its message."""
        only = ("--no-patch", "--no-show-signature", "--format=%<(100,trunc)%s")
        return _plain(self._git("show", *only, commit))[:100]

    def prune(self, keep: Collection[str]) -> None:
        """Removes the folders of all other commits."""
        for folder in self._checkouts.iterdir():
            if folder.name not in keep:
                shutil.rmtree(folder, ignore_errors=True)

    @property
    def shown(self) -> str:
        """The address, without what may be a credential."""
        return shown(self.wish.url)

    def _init(self, folder: Path) -> None:
        self._git("init", "--quiet", "--bare", "--template=", "--", str(folder))

    def _check_signature(self, commit: str) -> None:
        options = ("gpg.format=ssh", f"gpg.ssh.allowedSignersFile={self.wish.signers}", *_ONLY_SSH_SIGNATURES)
        try:
            self._git("verify-commit", "--raw", commit, settings=options)
        except Permanent as error:
            raise Permanent(
                f"{commit[:12]} has no good signature of a signer in {self.wish.signers}"
                f"{_because(error.message)}; sign it (git commit -S), or add its signer",
                code="bad_signature",
            ) from None

    def _check_files(self, commit: str) -> None:
        """Whether the commit's files can be laid out. A submodule is an empty folder: it is never fetched."""
        try:
            listed = self._git("ls-tree", "-r", "-l", "-z", commit).split("\0")[:-1]
        except Permanent as error:
            if error.code != "too_large":
                raise
            listed = [""] * (FILES_MAX + 1)
        if len(listed) > FILES_MAX:
            raise Permanent(
                f"{commit[:12]} has more than {FILES_MAX:,} files; follow a repository of documents alone",
                code="too_large",
            )
        sizes = [line.partition("\t")[0].split()[-1] for line in listed]
        total = sum(int(size) for size in sizes if size.isdigit())
        if total > self.wish.mib_max * _MIB:
            raise Permanent(
                f"the files of {commit[:12]} have {total // _MIB:,} MiB, expected at most "
                f"{self.wish.mib_max}; keep models elsewhere, or raise --most-mib",
                code="too_large",
            )

    def _follows(self, commit: str, after: str) -> bool:
        try:
            self._git("merge-base", "--is-ancestor", after, commit)
        except Permanent:
            return False
        return True

    def _git(
        self,
        *arguments: str,
        settings: Collection[str] = (),
        extra: Mapping[str, str] = _NOTHING,
        timeout_s: float = LOCAL_TIMEOUT_S,
        remote: bool = False,
        bytes_max: int = SAID_BYTES_MAX,
    ) -> str:
        """What git says. Raises Retryable where the repository elsewhere has a part in it, else Permanent."""
        argv = ["git", *(part for one in (*_SETTINGS, *settings) for part in ("-c", one))]
        at = self._incoming if (self._incoming / "HEAD").is_file() else self._repository
        environment = {"GIT_DIR": str(at), **({} if remote else _NOBODYS), **extra}
        bound = self.wish.mib_max * _MIB if remote else bytes_max
        status, said, why = _run([*argv, *arguments], environment, timeout_s, bytes_max=bound, telling=remote)
        if status == 0:
            return said
        if status == -signal.SIGXFSZ or _TOO_LARGE in why:
            raise Permanent(
                f"{self.shown} has more than {self.wish.mib_max} MiB in its last {DEPTH} commits; keep "
                f"models elsewhere, or raise --most-mib",
                code="too_large",
            )
        last = _plain(why)[-SAID_CHARS_MAX:] or f"git ended with {status}"
        if _UNSOUND in why:
            raise Permanent(f"{self.shown} holds what git refuses: {last}", code="bad_repository")
        if not remote:
            raise Permanent(last, code="git_failed")
        here = "there is no git repository of that name on this machine, or it cannot be read: "
        raise Retryable(
            f"{self.shown} cannot be had: {here if _is_here(self.wish.url) else ''}{last}",
            code="repository_unreachable",
        )


def shown(url: str) -> str:
    """`url` without what may be a credential."""
    parts = urlsplit(url)
    if not parts.scheme or "@" not in parts.netloc:
        return url
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _check(wish: Wish) -> None:
    if not wish.url or wish.url.startswith("-") or "::" in wish.url:
        raise Misconfigured(f"{wish.url!r} is no repository; expected an address that git takes")
    if urlsplit(wish.url).scheme in ("http", "https") and urlsplit(wish.url).password is not None:
        raise Misconfigured(
            f"the address of {shown(wish.url)} holds a password, which every process here can read; "
            f"leave it out, and give it to git's credential helper or use an SSH key"
        )
    if wish.branch and _BRANCH.fullmatch(wish.branch) is None:
        raise Misconfigured(
            f"{wish.branch!r} is no name of a branch; expected one such as main or release/1.2"
        )
    path = PurePosixPath(wish.path)
    if not wish.path or path.is_absolute() or ".." in path.parts or ".git" in path.parts:
        raise Misconfigured(f"--path is {wish.path!r}; expected a path below the repository's root")
    if wish.signers and not Path(wish.signers).is_file():
        raise Misconfigured(f"--signers is {wish.signers}, which is no file; expected allowed signers")


def _is_here(url: str) -> bool:
    """Whether it is a path rather than an address, as git tells them apart."""
    return "://" not in url and ":" not in url.partition("/")[0]


def _plain(said: str) -> str:
    """In one line, without what a terminal would act on: others wrote it."""
    return "".join(one if one.isprintable() else "?" for one in " ".join(said.split()))


def _because(said: str) -> str:
    return f" ({said})" if said and not said.startswith("git ended") else ""


def _bytes_in(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


def _run(
    argv: list[str], extra: dict[str, str], timeout_s: float, *, bytes_max: int, telling: bool
) -> tuple[int, str, str]:
    """Exit status, output and words of one git, which is ended with all it started when it takes too long, or
    when a file of its grows beyond `bytes_max`, its output among them."""
    quiet = {
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ALLOW_PROTOCOL": _PROTOCOLS,
        "LC_ALL": "C",
        "SSH_ASKPASS": "/bin/false",
    }
    environment = child_environment({**outbound_environment(), **quiet, **extra})
    environment.setdefault("GIT_SSH_COMMAND", "ssh -o BatchMode=yes -o ConnectTimeout=10")
    bounds = (str(-(-bytes_max // 512)), str(MEMORY_KIB_MAX))
    with tempfile.TemporaryFile() as said, tempfile.TemporaryFile() as why:
        process = subprocess.Popen(
            ["/bin/sh", "-c", f"{_TELLING if telling else ''}{_BOUNDED}", "sh", *bounds, *argv],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=why,
            env=environment,
            start_new_session=True,
        )
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return 124, "", f"no answer within {timeout_s:g} s"
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return process.returncode, _text(said), _text(why)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read(SAID_BYTES_MAX).decode("utf-8", "replace")
