"""The validators of what runs on servers: units, proxies, address pairs, firewalls, scripts, containers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from sextant.operations.verify.running import Bench, CannotRun, Validator, program_of, said_by

EXPOSURE_MOST = 2.5
"""Of `systemd-analyze security`, where 10 is worst: no unit of ours may be more exposed."""
VALID = "Configuration file is valid"
OBJECT = re.compile(r"^apiVersion:", re.MULTILINE)
WANTED = re.compile(r"\$\{(\w+):?\?")
"""Variables that a compose file cannot do without."""
ENGINE_KEY = re.compile(r'ssl_certificate_key\s+"engine:[^"]*";')
INTERFACE = re.compile(r"^(\s*interface\s+)\S+", re.MULTILINE)


def shellcheck(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """shellcheck in each folder of scripts, so that what they source is found."""
    for folder in sorted({path.parent for path in paths}):
        scripts = [path for path in paths if path.parent == folder]
        names = (path.name for path in scripts)
        said = said_by(("env", f"--chdir={folder}", program, "-x", *names), bench).complaint
        yield next((path for path in scripts if f"In {path.name} line" in said), scripts[0]), said


def systemd_verify(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """systemd-analyze says `ignoring` for what it does not know and ends with 0: any word is a fault."""
    said = said_by((program, "verify", "--man=no", *paths), bench).complaint
    named = [path for path in paths if path.name in said]
    if said:
        yield (named or list(paths))[0], said


def systemd_security(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """How exposed each service is."""
    for path in paths:
        said = said_by((program, "security", "--offline=true", path), bench)
        found = re.search(r"exposure level for \S+: ([\d.]+)", said.text)
        if found is None:
            raise CannotRun(f"systemd-analyze security gave no level: {said.text[-200:]}")
        if float(found[1]) > EXPOSURE_MOST:
            yield path, f"exposure level {found[1]}; expected at most {EXPOSURE_MOST}"


def nginx(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """nginx's own test, with a certificate made for it; a key in an HSM stands here as a file."""
    _certificate(bench)
    for path in paths:
        text = path.read_text("utf-8")
        if "engine:" in text:
            key = bench.root / "etc/sextant/tls/server.key"
            path.write_text(ENGINE_KEY.sub(f"ssl_certificate_key {key};", text), encoding="utf-8")
        yield path, said_by((program, "-t", "-q", "-e", "stderr", "-c", path), bench).complaint


def haproxy(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """haproxy's own test, with a certificate made for it; warnings count."""
    _certificate(bench)
    for path in paths:
        said = said_by((program, "-c", "-f", path), bench)
        yield path, said.text.removesuffix(VALID).strip() or said.failure


def keepalived(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """keepalived's test, for an interface that this machine has. Its status says nothing (143 with every
    script): what counts is its log, which must be there and empty."""
    interfaces = sorted(path.name for path in Path("/sys/class/net").iterdir() if path.name != "lo")
    if not interfaces:
        raise CannotRun("this machine has no network interface but the loopback, which VRRP refuses")
    for path in paths:
        here, log = path.with_suffix(".here"), path.with_suffix(".log")
        here.write_text(INTERFACE.sub(rf"\g<1>{interfaces[0]}", path.read_text("utf-8")), encoding="utf-8")
        # It looks at the machine's interfaces, so it keeps the machine's network; it sends nothing.
        said_by(("setsid", "-w", program, f"--config-test={log}", "-f", here), bench, networked=True)
        if not log.exists():
            raise CannotRun("keepalived wrote no log: it did not run")
        yield path, log.read_text("utf-8", errors="replace").strip()


def nft(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """nft's check, in a network of its own, where it needs no rights over the machine's."""
    if not bench.isolation:
        raise CannotRun("nft -c wants a network namespace of its own, which this user may not make")
    for path in paths:
        yield path, said_by((program, "-c", "-f", path), bench).complaint


def compose(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """docker compose reads each file as it would to start it, no engine needed; variables that must be there
    get a value, since without them it would not look whether volumes and networks are defined."""
    command = _composing(bench, program)
    for path in paths:
        wanted = sorted(set(WANTED.findall(path.read_text("utf-8", errors="replace"))))
        told = bench.root / "compose.env"
        told.write_text("".join(f"{name}=x\n" for name in wanted), encoding="utf-8")
        yield path, said_by((*command, "--env-file", told, "-f", path, "config", "-q"), bench).failure


def _composing(bench: Bench, program: str) -> tuple[str, ...]:
    """docker's plugin, or Compose by itself; its first version knew another file format."""
    alone = program_of("docker-compose")
    for command in ((program, "compose"), *([(alone,)] if alone is not None else [])):
        said = said_by((*command, "version", "--short"), bench)
        if said.status == 0 and re.match(r"v?([2-9]|[1-9]\d)\.", said.text):
            return command
    raise CannotRun("Compose 2 or newer is here neither as docker's plugin nor as docker-compose")


def github(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """GitHub's workflows against their published schema, which the program carries with it."""
    for path in paths:
        yield path, said_by((program, "--builtin-schema", "vendor.github-workflows", path), bench).failure


def gitlab(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """GitLab's pipelines against theirs."""
    told = ("--builtin-schema", "vendor.gitlab-ci", "--data-transform", "gitlab-ci")
    for path in paths:
        yield path, said_by((program, *told, path), bench).failure


def hadolint(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """hadolint over each Dockerfile."""
    for path in paths:
        yield path, said_by((program, "--no-color", path), bench).complaint


def amtool(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Alertmanager's own check."""
    for path in paths:
        yield path, said_by((program, "check-config", path), bench).failure


def prometheus(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Prometheus' check of its configuration; what that names elsewhere is not looked for."""
    for path in paths:
        # Not a configuration but an object of the operator's, which schemas judge.
        if OBJECT.search(path.read_text("utf-8", errors="replace")):
            continue
        yield path, said_by((program, "check", "config", "--syntax-only", path), bench).failure


def alerts(bench: Bench, program: str, paths: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """Prometheus' check of rules in files of their own."""
    for path in paths:
        yield path, said_by((program, "check", "rules", path), bench).failure


def _certificate(bench: Bench) -> None:
    """A certificate, its key, and the link that haproxy looks for, where the bundle will have its own."""
    folder = bench.root / "etc/sextant/tls"
    if (folder / "server.pem").exists():
        return
    program = program_of("openssl")
    if program is None:
        raise CannotRun("openssl is not installed, and a proxy is not tested without a certificate")
    kind = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    files = ("-keyout", folder / "server.key", "-out", folder / "server.pem")
    made = said_by((program, *kind, *files, "-days", "2", "-subj", "/CN=localhost"), bench)
    if made.status:
        raise CannotRun(f"openssl made no certificate: {made.text[-200:]}")
    (folder / "server.pem.key").symlink_to("server.key")


HOST_PROGRAMS: tuple[Validator, ...] = (
    Validator(name="shellcheck", program="shellcheck", patterns=("**/*.sh",), of="scripts", run=shellcheck),
    Validator(
        name="systemd-analyze verify",
        program="systemd-analyze",
        patterns=("systemd/*",),
        of="units",
        run=systemd_verify,
    ),
    Validator(
        name="systemd-analyze security",
        program="systemd-analyze",
        patterns=("systemd/*.service",),
        of="services",
        run=systemd_security,
    ),
    Validator(name="nginx -t", program="nginx", patterns=("**/nginx.conf",), of="files", run=nginx),
    Validator(name="haproxy -c", program="haproxy", patterns=("**/haproxy.cfg",), of="files", run=haproxy),
    Validator(
        name="keepalived", program="keepalived", patterns=("**/keepalived.conf",), of="files", run=keepalived
    ),
    Validator(name="nft -c", program="nft", patterns=("**/*.nft",), of="files", run=nft),
    Validator(
        name="docker compose config",
        program="docker",
        others=("docker-compose",),
        patterns=("**/compose*.y*ml", "**/docker-compose*.y*ml"),
        of="files",
        run=compose,
    ),
    Validator(name="hadolint", program="hadolint", patterns=("**/*Dockerfile*",), of="files", run=hadolint),
    Validator(
        name="workflow of GitHub",
        program="check-jsonschema",
        patterns=("ci/github*.y*ml", "**/.github/workflows/*.y*ml"),
        of="files",
        run=github,
    ),
    Validator(
        name="pipeline of GitLab",
        program="check-jsonschema",
        patterns=("ci/gitlab*.y*ml", "**/.gitlab-ci.yml"),
        of="files",
        run=gitlab,
    ),
    Validator(name="amtool", program="amtool", patterns=("**/alertmanager*.y*ml",), of="files", run=amtool),
    Validator(
        name="promtool check config",
        program="promtool",
        patterns=("**/prometheus.y*ml",),
        of="files",
        run=prometheus,
    ),
    Validator(
        name="promtool check rules",
        program="promtool",
        patterns=("compose/alerts.yml",),
        of="files",
        run=alerts,
    ),
)
