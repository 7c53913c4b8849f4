"""The deployment document: what is accepted, and what is said of everything else.

`bad_documents/*.yaml` are wrong on purpose; beside each stands what Sextant says (`*.txt`), reviewed as code.
`python tests/spec/test_document.py` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from sextant.base.errors import BadDocument
from sextant.spec.checking import walk_fields
from sextant.spec.document import (
    NOT_YET,
    Deployment,
    builtin_text,
    load_document,
    parse_document,
)
from sextant.spec.engine_sections import EmbeddedEngine, LaunchedEngine, RemoteCapabilities, RemoteEngine
from sextant.spec.limits import Limits
from sextant.spec.reading import DOCUMENT_BYTES, DOCUMENT_DEPTH, DOCUMENT_NODES, read_tree
from sextant.spec.snapshot import Capabilities, GatewayLimits
from sextant.spec.stores import SharedLimits

BAD = sorted(Path(__file__).with_name("bad_documents").glob("*.yaml"))

REMOTE = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata:
  name: demo
spec:
  model:
    name: deepseek-chat
  engine:
    kind: remote
    base_url: https://api.deepseek.com/v1/
    api_key: env:DEEPSEEK_API_KEY
    capabilities: {fim: true}
  gateway:
    tls: {cert_file: tls/server.pem, key_file: /etc/tls/server.key}
    limits: {body_bytes: 2048}
"""


def message_of(file: Path) -> str:
    with pytest.raises(BadDocument) as raised:
        parse_document(file.read_text(), name=file.name)
    return raised.value.message


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_says_what_is_wrong(file: Path) -> None:
    assert message_of(file) + "\n" == file.with_suffix(".txt").read_text()


def test_golden_files_are_many_and_paired() -> None:
    assert len(BAD) >= 12
    assert {file.stem for file in BAD} == {file.stem for file in BAD[0].parent.glob("*.txt")}


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_never_repeats_a_secret(file: Path) -> None:
    said = message_of(file)
    assert "hunter22" not in said
    assert "sk-0123456789" not in said


def test_builtin_document_serves_the_bundled_model() -> None:
    deployment = load_document(None)
    assert deployment.spec.model.name == "sextant-nano"
    assert isinstance(deployment.spec.engine, EmbeddedEngine)
    assert deployment.spec.gateway.limits.struct() == GatewayLimits()
    assert parse_document(builtin_text()) == deployment


def test_remote_document(tmp_path: Path) -> None:
    file = tmp_path / "remote.yaml"
    file.write_text(REMOTE)
    spec = load_document(file).spec
    assert isinstance(spec.engine, RemoteEngine)
    assert spec.engine.base_url == "https://api.deepseek.com/v1"
    assert spec.engine.capabilities.struct() == Capabilities(fim=True)
    assert spec.gateway.limits.struct() == GatewayLimits(body_bytes=2048)
    tls = spec.gateway.tls
    assert tls is not None
    assert tls.struct().cert_file == str(tmp_path / "tls/server.pem")
    assert tls.struct().key_file == "/etc/tls/server.key"
    assert tls.struct().client_ca_file is None


def test_several_models_and_their_sources(tmp_path: Path) -> None:
    (tmp_path / "org" / "here").mkdir(parents=True)
    file = tmp_path / "models.yaml"
    sources = ("m.gguf", "./folder", "org/here", "org/there", "hf:org/name@main:Q4_K_M", "/abs/x.gguf")
    entries = "".join(
        f"    - {{name: m{number}, source: '{source}', engine: {{kind: embedded}}}}\n"
        for number, source in enumerate(sources)
    )
    file.write_text(REMOTE[: REMOTE.index("  model:")] + f"  models:\n{entries}")
    served = load_document(file).spec.served
    assert [entry.source for entry in served] == [
        str(tmp_path / "m.gguf"),
        str(tmp_path / "folder"),
        str(tmp_path / "org/here"),
        "org/there",
        "hf:org/name@main:Q4_K_M",
        "/abs/x.gguf",
    ]


def test_a_launched_engine(tmp_path: Path) -> None:
    head = REMOTE[: REMOTE.index("  model:")]
    spec = parse_document(
        f"{head}  model: {{name: r1, source: m.gguf}}\n  engine: {{kind: sglang, env: {{A: b}}}}\n",
        folder=tmp_path,
    ).spec
    assert isinstance(spec.engine, LaunchedEngine)
    assert (spec.engine.kind, spec.engine.env, spec.engine.stop_timeout_s) == ("sglang", {"A": "b"}, 30.0)
    assert spec.served[0].engine == spec.engine
    assert spec.served[0].source == str(tmp_path / "m.gguf")


def test_stores_that_processes_share(tmp_path: Path) -> None:
    head = REMOTE[: REMOTE.index("  gateway:")]
    spec = parse_document(
        f"{head}  gateway: {{workers: 4}}\n"
        "  store: {url: 'postgresql://app@db:5432/sextant?sslmode=require', password: 'env:DB'}\n"
        "  limits: {url: 'rediss://r.example.com/3', password: 'file:/p', ca_file: ca.pem, fail: local}\n",
        folder=tmp_path,
    ).spec
    assert spec.store.struct().password_ref == "env:DB"
    assert spec.store.is_exposed  # encrypted, but nobody checks with whom
    assert spec.limits is not None
    assert not spec.limits.is_exposed
    shared = SharedLimits(worker="w", **spec.limits.values())
    assert (shared.url, shared.fail) == ("rediss://r.example.com/3", "local")
    assert (shared.password_ref, shared.ca_file) == ("file:/p", str(tmp_path / "ca.pem"))
    unset = SharedLimits("redis://h", "w")
    assert (unset.lease_s, unset.timeout_s) == (spec.limits.lease_s, spec.limits.timeout_s)


def test_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "windows.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + builtin_text().replace("\n", "\r\n").encode())
    assert load_document(file) == load_document(None)


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(BadDocument, match="no such file"):
        load_document(tmp_path / "absent.yaml")
    with pytest.raises(BadDocument, match="is a directory"):
        load_document(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"metadata:\n  name: caf\xe9\n")
    with pytest.raises(BadDocument, match=r"latin\.yaml:2: byte 0xe9 is not valid UTF-8"):
        load_document(latin)


def test_error_names_its_first_field() -> None:
    with pytest.raises(BadDocument) as raised:
        parse_document(REMOTE.replace("kind: remote", "kind: remot"))
    assert raised.value.field == "spec.engine.kind"


def test_document_size_is_bounded(tmp_path: Path) -> None:
    text = builtin_text()
    fits = text + "#" * (DOCUMENT_BYTES - len(text.encode()))
    assert parse_document(fits) == load_document(None)
    huge = tmp_path / "huge.yaml"
    huge.write_text(fits + "#")
    with pytest.raises(BadDocument, match=f"more than {DOCUMENT_BYTES} bytes"):
        load_document(huge)


@pytest.mark.slow
def test_document_depth_and_nodes_are_bounded() -> None:
    _, problems = read_tree("[" * DOCUMENT_DEPTH + "]" * DOCUMENT_DEPTH)
    assert problems == []
    _, problems = read_tree("[" * (DOCUMENT_DEPTH + 1))
    assert "nested deeper" in problems[0].said
    _, problems = read_tree("[" + "1," * (DOCUMENT_NODES - 1) + "]")
    assert problems == []
    _, problems = read_tree("[" + "1," * DOCUMENT_NODES + "]")
    assert "more than" in problems[0].said


def test_many_problems_are_counted_not_listed() -> None:
    wrong = "".join(f"key{number}: 1\n" for number in range(50))
    with pytest.raises(BadDocument) as raised:
        parse_document(wrong)
    assert "54 problems" in raised.value.message
    assert "… and 34 more" in raised.value.message


def test_limits_are_those_of_the_gateway() -> None:
    ours = {name: info.default for name, info in Limits.model_fields.items()}
    theirs = {field.name: field.default for field in msgspec.structs.fields(GatewayLimits)}
    assert ours == theirs


def test_capabilities_are_those_of_the_gateway() -> None:
    ours = {name: info.default for name, info in RemoteCapabilities.model_fields.items()}
    theirs = {field.name: field.default for field in msgspec.structs.fields(Capabilities)}
    assert ours == theirs


def test_what_is_not_yet_supported_is_not_half_supported() -> None:
    """A field that `NOT_YET` refuses whole must not stand in the models; a refused value belongs to a field
    that does."""
    known = {".".join(path) for path, _ in walk_fields(Deployment)}
    for spot in NOT_YET:
        field, _, value = spot.partition("=")
        assert (field in known) == bool(value), spot


def test_every_field_is_described() -> None:
    nameless = [".".join(path) for path, info in walk_fields(Deployment) if not info.description]
    assert nameless == []


if __name__ == "__main__":
    for bad in BAD:
        try:
            parse_document(bad.read_text(), name=bad.name)
        except BadDocument as error:
            bad.with_suffix(".txt").write_text(error.message + "\n")
