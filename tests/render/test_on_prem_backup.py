"""Backups of a server: when they run, what they are told, and what is refused."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.render.host_bundles import PAIR, laid_out, text_of, with_hosts
from tests.render.orders import EMBEDDED, document, order

from servers import program
from sextant.base.errors import Unsupported
from sextant.operations import bundles
from sextant.operations.verify.file_rules import secrets_written_out
from sextant.operations.verify.host_programs import systemd_security, systemd_verify
from sextant.operations.verify.running import Bench
from sextant.operations.verify.subject import read_subject
from sextant.render import render
from sextant.render.hosts.backup import calendar

FOLDER = {"continuity": {"backup": {"repository": "/srv/backups/plant"}}}


@pytest.mark.parametrize(
    ("cron", "expected"),
    [
        ("0 2 * * *", ("*-*-* 02:00:00",)),
        ("30 */6 * * 1-5", ("Mon,Tue,Wed,Thu,Fri *-*-* 00,06,12,18:30:00",)),
        ("0 3 1 * *", ("*-*-01 03:00:00",)),
        ("5 4 * jan-mar sun", ("Sun *-01,02,03-* 04:05:00",)),
        ("5 4 * * 7", ("Sun *-*-* 04:05:00",)),
        ("0 0 13 * fri", ("*-*-13 00:00:00", "Fri *-*-* 00:00:00")),
        ("10/20 * * * *", ("*-*-* *:10,30,50:00",)),
    ],
)
def test_a_schedule_is_cron_s_in_the_words_of_systemd(cron: str, expected: tuple[str, ...]) -> None:
    assert calendar(cron) == expected
    tool = program("systemd-analyze", "systemd", "/usr/bin")
    for line in expected:
        done = subprocess.run([tool, "calendar", line], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "Next elapse" in done.stdout, done.stderr


@pytest.mark.parametrize(
    "cron",
    [
        "60 * * * *",
        "* 24 * * *",
        "* * 0 * *",
        "* * * 13 *",
        "* * * * 8",
        "*/0 * * * *",
        "5-1 * * * *",
        "x * * * *",
    ],
)
def test_what_is_not_cron_s_is_refused(cron: str) -> None:
    with pytest.raises(Unsupported, match="of a backup's schedule"):
        calendar(cron)


def test_a_bundle_backs_up_as_its_document_and_profile_say() -> None:
    bundle = render(order("on-prem", **EMBEDDED, **FOLDER, profile="finance"))
    settings = text_of(bundle, "settings.sh")
    assert "backup_repository=/srv/backups/plant" in settings
    service = text_of(bundle, "systemd/sextant-backup.service")
    assert "LoadCredential=backup-password:/etc/sextant/backup-password" in service
    assert "ReadWritePaths=/srv/backups/plant" in service
    assert "OnCalendar=" in text_of(bundle, "systemd/sextant-backup.timer")
    assert "all sextant-backup.timer" in text_of(bundle, "units.list")
    assert any("restic" in need.name for need in bundle.needs)
    assert not any("Nothing is backed up" in note for note in bundle.notes)
    without = render(order("on-prem", **EMBEDDED))
    assert any("Nothing is backed up" in note for note in without.notes)
    assert not [file.path for file in without.files if "backup" in file.path]


def test_of_a_pair_the_one_with_the_address_makes_them() -> None:
    spec = with_hosts({**EMBEDDED, "sites": [{"name": "hall"}]}, "10.0.0.11", "10.0.0.12")
    continuity = {
        **PAIR["continuity"],
        "backup": {"repository": "s3:https://s3.example.com/plant"},
        "rpo_s": 30,
    }
    bundle = render(order("on-prem", **spec, store=PAIR["store"], continuity=continuity))
    assert "backup_holder=10.0.0.10" in text_of(bundle, "settings.sh")
    units = text_of(bundle, "units.list").splitlines()
    assert {"server-0 sextant-backup.timer", "server-1 sextant-backup.timer"} <= set(units)
    assert any("30 s of spec.continuity.rpo_s" in note for note in bundle.notes), "plain about what it cannot"
    assert any(need.name == "pg_dump" for need in bundle.needs)


def test_a_repository_that_restic_does_not_know_is_refused() -> None:
    continuity = {"backup": {"repository": "backups/plant"}}
    with pytest.raises(Unsupported, match="no restic repository"):
        render(order("on-prem", **EMBEDDED, continuity=continuity))


def test_the_units_pass_systemd(tmp_path: Path) -> None:
    root = laid_out(order("on-prem", **EMBEDDED, **FOLDER), tmp_path)
    tool = program("systemd-analyze", "systemd", "/usr/bin")
    units = sorted(tmp_path.glob("systemd/sextant-backup.*"))
    bench = Bench(tmp_path, root, ())
    assert [said for _, said in systemd_verify(bench, tool, units) if said] == []
    services = [path for path in units if path.suffix == ".service"]
    assert [said for _, said in systemd_security(bench, tool, services) if said] == []


def test_verify_finds_no_secret_in_the_unit_and_finds_a_planted_one(tmp_path: Path) -> None:
    bundles.write(bundles.render_document(_document(tmp_path)), tmp_path / "plant")
    assert list(secrets_written_out(read_subject(tmp_path / "plant"))) == []
    unit = tmp_path / "plant/systemd/sextant-backup.service"
    unit.write_text(unit.read_text() + "SetCredential=backup-password:correct-horse-battery-staple\n")
    assert len(list(secrets_written_out(read_subject(tmp_path / "plant")))) == 1


def _document(folder: Path) -> Path:
    file = folder / "plant.yaml"
    file.write_text(document("on-prem", **EMBEDDED, **FOLDER))
    return file
