"""The verbs without a running stack: help, versions, refusals, and that help stays quick."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from servers import PASSWORD
from sextant.app.bootstrap import bootstrap
from sextant.app.machine import Gpu, Machine, look, model_sizes
from sextant.app.state import StateDir
from sextant.app.stores import note_store
from sextant.cli.doctor import what_fits
from sextant.cli.main import app, asked_for
from sextant.spec.stores import StoreSettings
from sextant.store.accounts import Accounts
from stack_under_test import sextant


def plain(**more: str) -> dict[str, str]:
    """An environment in which rich and typer print the same everywhere."""
    kept = {
        name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")
    }
    return {**kept, "COLUMNS": "100", "TERM": "dumb", "NO_COLOR": "1", **more}


def test_help_imports_nothing_heavy() -> None:
    program = "import sys, sextant.cli.main; print('\\n'.join(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    heavy = {
        "fastapi",
        "pydantic",
        "sqlalchemy",
        "xllamacpp",
        "apsw",
        "uvicorn",
        "yaml",
        "uvloop",
        "prometheus_client",
    }
    assert not heavy & set(loaded.split())


def test_one_verb_alone_is_what_it_is_among_all() -> None:
    runner = CliRunner()

    def said(of: typer.Typer, *words: str) -> tuple[int, str]:
        done = runner.invoke(of, list(words), prog_name="sextant", env=plain())
        return done.exit_code, done.output

    for words in (["up", "-h"], ["key"], ["key", "create", "--help"], ["version", "--no"]):
        assert said(asked_for(words), *words) == said(app, *words)
    for one in (*app.registered_commands, *app.registered_groups):
        assert asked_for([str(one.name)]) is not app
    assert all(asked_for(words) is app for words in ([], ["--help"], ["vers"], [""]))


def test_version() -> None:
    found = json.loads(sextant("version", "--json").stdout)
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["sextant"] in sextant("version").stdout


@pytest.mark.parametrize(
    "verb", [("status",), ("chat", "hi"), ("key", "list"), ("key", "create"), ("model", "list")]
)
def test_what_needs_a_deployment_says_how_to_get_one(tmp_path: Path, verb: tuple[str, ...]) -> None:
    done = sextant(*verb, "--state", str(tmp_path / "none"))
    assert done.returncode == 3
    assert "nothing runs with the state directory" in done.stderr
    assert f"up --state {tmp_path / 'none'}" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "none").exists()


def test_status_json_without_a_deployment(tmp_path: Path) -> None:
    done = sextant("status", "--json", "--state", str(tmp_path / "none"))
    assert (done.returncode, json.loads(done.stdout)) == (3, {"running": False})


def test_down_without_a_deployment_is_no_failure(tmp_path: Path) -> None:
    done = sextant("down", "--state", str(tmp_path / "none"))
    assert done.returncode == 0
    assert "Nothing runs" in done.stdout


def test_the_state_directory_comes_from_the_environment_too(tmp_path: Path) -> None:
    done = sextant("down", env={**os.environ, "SEXTANT_STATE": str(tmp_path / "there")})
    assert str(tmp_path / "there") in done.stdout


@pytest.mark.slow
def test_keys_of_a_stopped_deployment(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    bootstrap(state)
    at = ("--state", str(state.root))
    made = json.loads(sextant("key", "create", "--name", "app", "--json", *at).stdout)
    listed = json.loads(sextant("key", "list", "--json", *at).stdout)
    assert [key["name"] for key in listed] == ["first", "local-cli", "app"]
    assert made["key"] not in json.dumps(listed)
    assert sextant("key", "revoke", made["id"], *at).returncode == 0
    assert made["id"] not in sextant("key", "list", *at).stdout
    assert made["id"] in sextant("key", "list", "--revoked", *at).stdout
    refused = sextant("key", "revoke", "key_none", *at)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "there is no key key_none" in refused.stderr
    accounts = Accounts(state.accounts_db)
    assert len(accounts.list_keys()) == 2
    accounts.close()


@pytest.mark.slow
def test_keys_of_a_stopped_deployment_in_postgresql(database: str, tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    store = StoreSettings(database.replace(f":{PASSWORD}", ""), "env:BOOKS_PASSWORD")
    at = ("--state", str(state.root))
    assert "nothing runs with the state directory" in sextant("key", "list", *at).stderr
    note_store(state, store)
    away = sextant("key", "list", *at)
    assert away.returncode != 0
    assert "BOOKS_PASSWORD" in away.stderr
    known = {"env": {**os.environ, "BOOKS_PASSWORD": PASSWORD}}
    made = json.loads(sextant("key", "create", "--name", "app", "--json", *at, **known).stdout)
    assert [key["name"] for key in json.loads(sextant("key", "list", "--json", *at, **known).stdout)] == [
        "app"
    ]
    assert sextant("key", "revoke", made["id"], *at, **known).returncode == 0
    assert made["id"] not in sextant("key", "list", *at, **known).stdout
    assert not state.accounts_db.exists()
    accounts = Accounts(database)
    assert [key.revoked_ms > 0 for key in accounts.list_keys(with_revoked=True)] == [True]
    accounts.close()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("up", "/does/not/exist.yaml"), "there is no file /does/not/exist.yaml"),
        (("up", "/"), "this is a directory"),
        (("up", "--state", "/dev/null/x"), "cannot be made"),
        (("chat", "--url", "http://127.0.0.1:1/v1", "hi"), "set SEXTANT_API_KEY"),
    ],
)
def test_mistakes_are_told_in_one_sentence(arguments: tuple[str, ...], said: str) -> None:
    done = sextant(*arguments, env=plain())
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_a_fault_of_ours_goes_to_a_file(tmp_path: Path) -> None:
    program = (
        "import sys, sextant.cli.version as v\n"
        "def broken(*a, **k): raise RuntimeError('boom')\n"
        "v.print_json = broken\n"
        "sys.argv = ['sextant', 'version', '--json']\n"
        "from sextant.cli.main import main\nmain()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        env=plain(TMPDIR=str(tmp_path)),
    )
    assert done.returncode == 1
    assert "this should not have happened (RuntimeError)" in done.stderr
    assert "Traceback" not in done.stderr
    (crash,) = tmp_path.glob("sextant-crash-*.log")
    assert "boom" in crash.read_text()
    assert str(crash) in done.stderr


def test_doctor_looks_at_this_machine(tmp_path: Path) -> None:
    found = json.loads(sextant("doctor", "--json", "--state", str(tmp_path / "s")).stdout)
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["memory_gb"] > 0
    said = {finding["what"]: finding for finding in found["findings"]}
    assert said["SQLite"]["verdict"] == "ok"
    assert said["engine"]["said"].startswith("xllamacpp ")
    assert said["model"]["verdict"] == "ok"
    assert not (tmp_path / "s").exists()


def machine(**fields: object) -> Machine:
    import msgspec

    return msgspec.structs.replace(look(Path("/")), **fields)


def test_what_fits_goes_by_gpu_memory_where_there_is_any() -> None:
    h200 = Gpu("H200", 141.0, "1")
    fits = {fit.model: fit for fit in what_fits(machine(gpus=(h200,) * 8, memory_free_gb=1000.0))}
    assert fits["DeepSeek-V3 / R1"].fits
    assert "689 GB as fp8 in 1128 GB of GPU memory" in fits["DeepSeek-V3 / R1"].why
    one = {fit.model: fit for fit in what_fits(machine(gpus=(h200,), memory_free_gb=1000.0))}
    assert not one["DeepSeek-V3 / R1"].fits
    assert "400 GB even as int4" in one["DeepSeek-V3 / R1"].why
    none = {fit.model: fit for fit in what_fits(machine(gpus=(), memory_free_gb=0.5))}
    assert not any(fit.fits for fit in none.values())


def test_known_models_are_in_order_and_plausible() -> None:
    sizes = model_sizes()
    assert [size.parameters_b for size in sizes] == sorted(size.parameters_b for size in sizes)
    for size in sizes:
        for gb in size.weights_gb.values():
            assert 0.4 * size.parameters_b <= gb <= 2.1 * size.parameters_b


def test_an_import_shows_its_plan_and_overwrites_nothing(tmp_path: Path) -> None:
    config, document = tmp_path / "config.yaml", tmp_path / "moved.yaml"
    config.write_text(
        "model_list: [{model_name: qwen, litellm_params: {model: hosted_vllm/q, "
        "api_base: 'http://10.0.0.7/v1', api_key: sk-upstream-secret-1, timeout: 5}}]\n"
    )
    at = ("-o", str(document), "--secrets", str(tmp_path / "secrets"))
    done = sextant("import", "litellm", str(config), *at, env=plain())
    assert done.returncode == 0, done.stderr
    assert "model_list[0].litellm_params.timeout" in done.stdout
    assert "Nothing was changed" in done.stdout
    assert "sk-upstream-secret-1" not in done.stdout + document.read_text()
    secret = tmp_path / "secrets/qwen_api_key"
    assert (secret.read_text(), secret.stat().st_mode & 0o777) == ("sk-upstream-secret-1\n", 0o600)
    assert f"api_key: file:{secret}" in document.read_text()
    refused = sextant("import", "litellm", str(config), *at, env=plain())
    assert (refused.returncode, "is there already" in refused.stderr) == (1, True)
