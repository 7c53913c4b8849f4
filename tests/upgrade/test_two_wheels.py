"""From one built wheel to the next and back, under load: nothing lost, nothing double, nothing unreadable.

The old program serves clients; it is stopped, the new one starts on the same state (a backup is made, both
schemas move), and the clients, who never stopped, go on. Then the old one is started on the new schema: it
refuses with a command, the command is run as it stands, and the old one serves what it had written.
"""

from __future__ import annotations

import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import apsw
import msgspec
import psycopg
import pytest

from answers_under_load import Client, load, usage_rows
from servers import PASSWORD
from sextant.store.upgrade import known_schemas
from stack_under_test import Stack
from upgrade.later_sextant import REVISION, VERSION, make_later_tree

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

PIP = ("-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input")
CLIENTS = 6
PHASE_S = 3.0


DOCUMENT = """\
apiVersion: sextant.dev/v1alpha1
kind: ModelDeployment
metadata: {{name: upgrade}}
spec:
  models: [{{name: sextant-nano, engine: {{kind: embedded}}}}]
  store: {{url: '{url}', password: 'file:{secret}'}}
"""


class Store(msgspec.Struct, frozen=True):
    """`ledger` is a file or PostgreSQL's URL."""

    ledger: Path | str
    document: Path | None


class Programs(msgspec.Struct, frozen=True):
    """The `sextant` command of each environment."""

    old: Path
    new: Path


@pytest.fixture(scope="module", autouse=True)
def no_other_source() -> Iterator[None]:
    """Both programs run what is in their environment, whatever this process was told to import."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("PYTHONPATH", raising=False)
        yield


@pytest.fixture(scope="module")
def programs(wheels: Path, no_other_source: None) -> Iterator[Programs]:
    """Both wheels, installed without an index. The second environment shares what the first has installed
    beside Sextant: both need the same."""
    with tempfile.TemporaryDirectory(prefix="sx-later-") as folder:
        later = Path(folder, "tree")
        later.mkdir()
        run(sys.executable, *PIP, "wheel", "--no-deps", "--wheel-dir", folder, str(make_later_tree(later)))
        (new_wheel,) = Path(folder).glob("sextant_llm-*.whl")
        (old_wheel,) = wheels.glob("sextant_llm-*.whl")
        assert VERSION in new_wheel.name
        assert old_wheel.name != new_wheel.name
        dependencies = Path(folder, "dependencies")
        others = [str(path) for path in wheels.glob("*.whl") if path != old_wheel]
        run(
            sys.executable, *PIP, "install", "--no-index", "--no-deps", "--target", str(dependencies), *others
        )
        made = [environment(Path(folder, name), wheel, dependencies)
                for name, wheel in (("old", old_wheel), ("new", new_wheel))]  # fmt: skip
        yield Programs(*made)


def environment(folder: Path, wheel: Path, dependencies: Path) -> Path:
    """A virtual environment with that wheel; its `sextant`."""
    run(sys.executable, "-m", "venv", str(folder))
    python = folder / "bin" / "python"
    site = run(str(python), "-c", "import site; print(site.getsitepackages()[0])").strip()
    Path(site, "dependencies.pth").write_text(f"{dependencies}\n")
    run(str(python), *PIP, "install", "--no-index", "--no-deps", str(wheel))
    return folder / "bin" / "sextant"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(params=["files", "PostgreSQL"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """Where a deployment keeps its books, and the document that says so."""
    if request.param == "files":
        return Store(tmp_path / "state" / "ledger.db", None)
    url = request.getfixturevalue("database")
    secret = tmp_path / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    document = tmp_path / "upgrade.yaml"
    document.write_text(DOCUMENT.format(url=url.replace(f":{PASSWORD}@", "@"), secret=secret))
    return Store(url, document)


def test_up_and_back_under_load(programs: Programs, store: Store, tmp_path: Path) -> None:
    state, ledger = tmp_path / "state", store.ledger
    old = Stack(state, program=(str(programs.old),), document=store.document)
    new = Stack(state, program=(str(programs.new),), document=store.document)
    new.port, new.control_port, new.arguments = old.port, old.control_port, old.arguments
    try:
        old.start().wait_serving()
        with load(old, [Client(number) for number in range(CLIENTS)]) as seen:
            time.sleep(PHASE_S)
            assert old.stop() == 0
            before = usage_rows(ledger)
            new.start().wait_serving()
            assert "were migrated" in new.said()
            time.sleep(PHASE_S)
            assert new.stop() == 0
        after = rows_of_a_later_schema(ledger)
        assert seen.completed.keys() <= after.keys()
        assert {name: after[name] for name in seen.completed} == seen.completed
        assert before.items() < after.items(), "all rows of the old program, and more of the new one"
        assert later_rows(ledger) == len(before), "the migration saw every row there was"
        assert "Sound" in run(str(programs.new), "db", "check", "--state", str(state))
        check_the_way_back(old, programs, ledger, before)
    finally:
        old.kill()
        new.kill()


def check_the_way_back(
    old: Stack, programs: Programs, ledger: Path | str, before: dict[str, tuple[int, int]]
) -> None:
    """The old program refuses the new schema and names a command; that command, run as it stands, restores
    what the old program had written."""
    state = old.root
    refused = subprocess.run(
        [str(programs.old), "up", *old.arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert refused.returncode == 1
    assert f"schema {REVISION}" in refused.stderr
    assert f"{known_schemas().accounts} and ledger {known_schemas().ledger}" in refused.stderr
    assert rows_of_a_later_schema(ledger).keys() >= before.keys(), "refusing changed nothing"
    command = refused.stderr.rpartition("set aside): ")[2].strip()
    assert command.startswith("sextant db restore --state ")
    assert "What was there is in" in run(str(programs.old), *shlex.split(command)[1:])
    assert usage_rows(ledger) == before
    old.start().wait_serving()
    assert old.chat().status == 200
    assert old.stop() == 0
    assert before.items() < usage_rows(ledger).items()
    assert "Sound" in run(str(programs.old), "db", "check", "--state", str(state))


def query(ledger: Path | str, sql: str) -> list[tuple[object, ...]]:
    """Asked of the database itself: this tree's own reader refuses a later schema."""
    if isinstance(ledger, Path):
        db = apsw.Connection(str(ledger), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            return list(db.execute(sql))
        finally:
            db.close()
    with psycopg.connect(ledger, options="-c search_path=ledger") as connection:
        return list(connection.execute(sql))  # type: ignore[arg-type]


def rows_of_a_later_schema(ledger: Path | str) -> dict[object, tuple[object, object]]:
    found = query(ledger, "SELECT request_id, input_tokens, output_tokens FROM usage")
    return {name: (read, made) for name, read, made in found}


def later_rows(ledger: Path | str) -> object:
    return query(ledger, "SELECT count(*) FROM later_seen")[0][0]
