"""Every planted mistake is found, by the rule or validator that it is meant for; good bundles are clean."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.render.schema_check import STRICT, WHY_NOT_STRICT, schemas
from tests.verify.bundles_under_test import KINDS, copied, rendered
from tests.verify.mistakes import MISTAKES

from sextant.operations.verify.cluster_programs import ALERT_RULES, BY_SCHEMA, DRY_RUN
from sextant.operations.verify.cluster_rules import CLUSTER_RULES
from sextant.operations.verify.file_rules import FILE_RULES, NOT_SERVED
from sextant.operations.verify.host_programs import HOST_PROGRAMS
from sextant.operations.verify.subject import UNREADABLE
from sextant.operations.verify.triton_config import BY_TRITON
from sextant.operations.verify.verifying import verify

SHOWN_ELSEWHERE = {DRY_RUN}
"""It takes an API server: `test_verify_cluster.py`."""
OF_NO_SCHEMA = {"a pace limit of no schema"}
"""In custom resources, whose schemas are not everywhere."""
NO_CLUSTER = "kubectl apply --dry-run=server"

EVERY_CHECK = frozenset(
    (
        *(rule.id for rule in CLUSTER_RULES),
        *FILE_RULES,
        UNREADABLE,
        NOT_SERVED,
        *(validator.name for validator in HOST_PROGRAMS),
        BY_SCHEMA,
        ALERT_RULES,
        BY_TRITON,
        DRY_RUN,
    )
)
"""The names that faults may carry: rules of ours by id, validators by name."""


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {kind: rendered(text, tmp_path_factory.mktemp(kind)) for kind, text in KINDS.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_a_good_bundle_is_clean_and_was_looked_at(good: dict[str, Path], kind: str) -> None:
    report = verify(good[kind], kubernetes="1.36", kept=schemas())
    assert report.faults == ()
    assert {each.check for each in report.not_run} - {"schemas"} <= {NO_CLUSTER}
    ran = {each.check for each in report.ran}
    expected = {
        "cluster": {"rules over clusters", "schemas", "promtool check rules"},
        "identities": {"rules over clusters", "schemas", "promtool check rules"},
        "saas": {"rules over clusters", "schemas", "promtool check rules"},
        "hsm": {"nginx -t", "systemd-analyze verify", "systemd-analyze security"},
        "nginx": {"nginx -t", "keepalived", "nft -c", "shellcheck", "systemd-analyze verify"},
        "haproxy": {"haproxy -c", "nft -c", "systemd-analyze security"},
        "triton": {"config.pbtxt", "shellcheck"},
        "edge": {"shellcheck", "systemd-analyze verify", "systemd-analyze security"},
        "container": {
            "docker compose config",
            "hadolint",
            "amtool",
            "workflow of GitHub",
            "pipeline of GitLab",
            "promtool check config",
        },
    }
    assert ran >= expected[kind]


@pytest.mark.slow
@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_found(good: dict[str, Path], tmp_path: Path, name: str) -> None:
    mistake = MISTAKES[name]
    if name in OF_NO_SCHEMA and not STRICT:
        pytest.skip(reason=WHY_NOT_STRICT)
    bundle = copied(good[mistake.kind], tmp_path)
    mistake.plant(bundle)
    report = verify(bundle, kubernetes="1.36", kept=schemas())
    assert mistake.found_by in {fault.rule for fault in report.faults}


def test_every_check_there_is_has_a_mistake_of_its_own() -> None:
    """Out of the registry of checks: one that nobody has ever seen bite would be none."""
    assert len(MISTAKES) >= 78
    shown = {mistake.found_by for mistake in MISTAKES.values()}
    assert shown | SHOWN_ELSEWHERE == EVERY_CHECK


def test_what_is_declared_is_listed_with_its_reason(good: dict[str, Path]) -> None:
    report = verify(good["container"], kubernetes="1.36", kept=schemas())
    found = {(note.rule, note.what.partition(":")[0]): note.why for note in report.noted}
    assert set(found) == {
        ("SX-V008", "Job sextant-build/build-sextant"),
        ("SX-V008", "Job sextant-build/build-ci"),
        ("SX-V010", "namespace sextant-build"),
        ("SX-V010", "namespace logging"),
    }
    assert all(why.endswith(".") for why in found.values())


def test_the_guide_holds_every_rule_in_its_own_words() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/verify.md").read_text()
    assert [rule.id for rule in CLUSTER_RULES if f"| {rule.id} | {rule.sentence} |" not in guide] == []
    missing = [name for name in EVERY_CHECK if name.startswith("SX-V") and f"| {name} |" not in guide]
    assert missing == []
