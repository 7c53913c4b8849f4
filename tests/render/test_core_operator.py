"""What an operator reads: every file explained, every secret made by a step, and none shown on a screen."""

from __future__ import annotations

import re

import pytest
from tests.render.orders import DISTILLED, EMBEDDED, R1, order
from tests.render.test_core_matrix import CELLS, ordered

from sextant.render import render
from sextant.render.holdings import holding
from sextant.spec.bundle import Bundle, Step
from sextant.spec.rendering import Cell

STORES = {
    "store": {"url": "postgresql://sextant@10.0.0.20/sextant", "password": "env:STORE_PASSWORD"},
    "limits": {"url": "rediss://10.0.0.21:6379", "password": "file:/etc/sextant/limits"},
}
HOSTS = ["10.0.0.11", "10.0.0.12"]
PAIR = {
    **DISTILLED,
    **STORES,
    "sites": [{"name": "a", "hosts": HOSTS, "accelerators": [{"name": "L40S", "count": 4}]}],
    "continuity": {
        "standby": {"address": "10.0.0.10", "peer": "10.0.0.12"},
        "backup": {"repository": "s3:https://minio.example.com/backups"},
    },
}


def typed(steps: tuple[Step, ...]) -> list[str]:
    return [line for step in steps for line in step.commands]


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.vendor}-{cell.engine}-{cell.mode}")
def test_every_file_is_explained(cell: Cell) -> None:
    assert [file.path for file in render(ordered(cell)).files if not holding(file)] == []


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: f"{cell.vendor}-{cell.engine}-{cell.mode}")
def test_every_secret_of_a_cluster_is_made_by_a_step_and_shown_by_none(cell: Cell) -> None:
    bundle = render(ordered(cell))
    made = " ".join(typed(bundle.install))
    for need in bundle.needs:
        assert "{.data}" not in need.check
        found = re.fullmatch(r"Secret ([a-z0-9-]+)/([a-z0-9-]+)", need.name)
        if found and "optional" not in need.why:
            assert re.search(rf"create secret generic {found[2]} ", made), need.name


def test_backups_have_the_secret_that_velero_signs_in_with() -> None:
    spec = {**R1, "continuity": {"backup": {"repository": "s3://velero"}}}
    bundle = render(order("private-cloud", **spec))
    assert any("-n velero create secret generic sextant-backup" in line for line in typed(bundle.install))


def test_secrets_of_a_server_are_put_in_place_before_anything_is_installed() -> None:
    bundle = render(order("on-prem", **PAIR))
    lines = typed(bundle.install)
    install = next(number for number, line in enumerate(lines) if "./install.sh" in line)
    for path in ("secrets.env", "limits", "backup.env"):
        assert lines.index(f"sudoedit /etc/sextant/{path}") < install
    assert "sudo grep -c ^STORE_PASSWORD= /etc/sextant/secrets.env" in [need.check for need in bundle.needs]


def test_both_servers_of_a_pair_are_installed_with_the_same_keys() -> None:
    lines = typed(render(order("on-prem", **PAIR)).install)
    first = next(number for number, line in enumerate(lines) if line.endswith("--role server-0"))
    second = next(number for number, line in enumerate(lines) if line.endswith("--role server-1"))
    shared = next(number for number, line in enumerate(lines) if "ssh 10.0.0.12" in line)
    assert first < shared < second
    assert "engine-key engine-key.env backup-password" in lines[shared]


@pytest.mark.parametrize("mode", ["on-prem", "edge"])
def test_no_key_is_typed_into_the_folder_that_is_signed(mode: str) -> None:
    lines = [line for line in typed(render(order(mode, **EMBEDDED)).install) if "install -" not in line]
    assert not [line for line in lines if re.search(r" (release|server)[.]", line)]


def hybrid() -> Bundle:
    here = [{"name": "L40S", "count": 4}]
    sites = [
        {"name": kind, "kind": kind, "address": f"{kind}.example.com", "accelerators": here}
        for kind in ("private", "public")
    ]
    return render(order("hybrid", **{**DISTILLED, **STORES, "sites": sites}))


def test_the_key_of_the_other_site_is_made_before_it_is_asked_for() -> None:
    lines = typed(hybrid().install)
    made = next(number for number, line in enumerate(lines) if "key create --tenant overflow" in line)
    asked = next(number for number, line in enumerate(lines) if "etc-sextant-peers-public-key" in line)
    serves = next(number for number, line in enumerate(lines) if "deployment/gateway" in line)
    assert serves < made < asked


def test_a_bundle_for_two_clusters_is_compared_and_taken_back_whole() -> None:
    bundle = hybrid()
    assert bundle.upgrade[0].commands[0] == "sextant diff . NEW_DOCUMENT"
    assert not [line for step in bundle.upgrade[1:] for line in step.commands if line.startswith("sextant ")]
    back = [line for line in typed(bundle.rollback) if "PREVIOUS" in line]
    assert [line.rpartition(" ")[2] for line in back] == [
        "PREVIOUS/private/manifests/",
        "PREVIOUS/public/manifests/",
    ]


def test_versions_of_images_are_no_matter_where_engines_are_programs() -> None:
    bundle = render(order("on-prem", **DISTILLED))
    assert any("pip install vllm==" in line for line in typed(bundle.install))
