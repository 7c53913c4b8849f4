"""`sextant render` and `sextant diff` as somebody types them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.render.orders import EMBEDDED, R1, document

from sextant.operations.bundles_diff import changes
from sextant.spec.bundle import File


def sextant(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "sextant.cli.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def written(file: Path, mode: str, **spec: object) -> Path:
    file.write_text(document(mode, **spec))
    return file


@pytest.mark.slow
def test_a_session(tmp_path: Path) -> None:
    """Render, nothing differs, a change, what differs, render again."""
    old = written(tmp_path / "old.yaml", "private-cloud", **R1)
    new = written(tmp_path / "new.yaml", "private-cloud", **R1, scaling={"max_replicas": 5})
    out = tmp_path / "out"
    done = sextant("render", str(old), "-o", str(out))
    assert done.returncode == 0, done.stderr
    assert "deepseek-r1: vllm on 8 x NVIDIA H200" in done.stdout
    assert f"Read {out / 'README.md'} next: " in done.stdout
    same = sextant("diff", str(out), str(old))
    assert (same.returncode, same.stdout) == (0, "Nothing differs.\n")
    differing = sextant("diff", str(old), str(new))
    assert differing.returncode == 1
    assert "8 -> 5" in differing.stdout
    told = json.loads(sextant("diff", str(out), str(new), "--json").stdout)
    assert {change["kind"] for change in told["changes"]} == {"changed"}
    again = sextant("render", str(new), "-o", str(out), "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["mode"] == "private-cloud"
    assert sextant("diff", str(out), str(new)).returncode == 0


@pytest.mark.slow
def test_refusals_are_one_sentence(tmp_path: Path) -> None:
    sites = [{"name": "a", "accelerators": [{"name": "cpu-server", "count": 1}]}]
    file = written(tmp_path / "a.yaml", "container", **{**R1, "sites": sites})
    done = sextant("render", str(file), "-o", str(tmp_path / "out"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "cpu x vllm x container is not supported" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    fine = written(tmp_path / "b.yaml", "on-prem", **EMBEDDED)
    done = sextant("render", str(fine), "-o", str(tmp_path / "mine"))
    assert done.returncode == 1
    assert "would be lost" in done.stderr
    assert sextant("diff", str(tmp_path / "mine"), str(fine)).returncode == 1


def files(**texts: str) -> dict[str, File]:
    return {
        path.replace("_", "."): File(path.replace("_", "."), text.encode()) for path, text in texts.items()
    }


SERVICE = "apiVersion: v1\nkind: Service\nmetadata: {name: s, namespace: n}\n"
POD = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec:\n"
POD += "  containers: [{name: a, image: x}, {name: b, image: y}]\n"


def test_objects_are_compared_value_by_value() -> None:
    old = files(a_yaml=f"{POD}---\n{SERVICE}spec: {{ports: [1, 2]}}\n")
    new = files(
        a_yaml=f"{SERVICE}spec: {{ports: [1, 3], type: LB}}\n---\n{POD.replace('image: y', 'image: z')}"
    )
    found = {change.what: change.lines for change in changes(old, new)}
    assert found == {
        "Pod p": ('spec.containers[b].image: "y" -> "z"',),
        "Service n/s": ("spec.ports[1]: 2 -> 3", 'spec.type: nothing -> "LB"'),
    }


def test_objects_come_and_go() -> None:
    found = changes(files(a_yaml=POD), files(a_yaml=SERVICE))
    assert [(change.kind, change.what) for change in found] == [
        ("removed", "Pod p"),
        ("added", "Service n/s"),
    ]
    reordered = changes(files(a_yaml=f"{POD}---\n{SERVICE}"), files(a_yaml=f"{SERVICE}---\n{POD}"))
    assert [change.lines for change in reordered] == [("only the order or the comments",)]


def test_other_files_are_compared_line_by_line() -> None:
    found = changes(
        files(a_txt="x\ny\n", b_txt="1", d_yaml="a: 1\n"), files(a_txt="x\nz\n", c_txt="1", d_yaml="a: 2\n")
    )
    assert [(change.kind, change.path) for change in found] == [
        ("changed", "a.txt"), ("removed", "b.txt"), ("added", "c.txt"), ("changed", "d.yaml"),
    ]  # fmt: skip
    assert found[0].lines[-2:] == ("-y", "+z")
    assert found[3].lines[-2:] == ("-a: 1", "+a: 2")


def test_bytes_modes_and_broken_yaml() -> None:
    binary = changes({"m": File("m", b"\xff\x00")}, {"m": File("m", b"\xff")})
    assert binary[0].lines == ("2 bytes -> 1 bytes",)
    mode = changes({"m": File("m", b"")}, {"m": File("m", b"", executable=True)})
    assert mode[0].lines == ("now executable",)
    assert changes(files(a_yaml="a: ["), files(a_yaml="a: [1"))[0].lines[-1] == "+a: [1"
    assert changes(files(a_yaml=POD), files(a_yaml=POD)) == ()
