"""What another document changes of what runs: which engines go on, start and end, and what is refused."""

from __future__ import annotations

import pytest
from gitops_under_test import document, model

from sextant.app.change import Change, what_changes
from sextant.base.errors import Misconfigured
from sextant.spec.document import Deployment, parse_document


def of(*models: dict[str, object], **spec: object) -> Deployment:
    return parse_document(document(*models, **spec), name="sextant.yaml")


def counted(name: str) -> dict[str, object]:
    """A model whose engine counts its threads itself."""
    return {**model(name, aliases=()), "engine": {"kind": "embedded"}}


def named(name: str) -> dict[str, object]:
    return model(name, aliases=())


def test_an_engine_that_is_started_with_the_same_goes_on() -> None:
    change = what_changes(of(named("a"), named("b")), of(named("b"), named("c")))
    assert change == Change(fresh=(1,), kept=((0, 1),), gone=(0,))


def test_engines_that_share_the_cores_start_anew_when_there_is_one_more_or_fewer() -> None:
    """Two that each spin on all of them answer less than a hundredth of what they should."""
    one, two = of(counted("a")), of(counted("a"), counted("b"))
    assert what_changes(one, two) == Change(fresh=(0, 1), kept=(), gone=(0,))
    assert what_changes(two, one) == Change(fresh=(0,), kept=(), gone=(0, 1))
    assert what_changes(two, of(counted("b"), counted("a"))).fresh == ()
    assert what_changes(of(counted("a")), of(counted("a"), remote())).fresh == (1,)


def remote() -> dict[str, object]:
    return {"name": "away", "engine": {"kind": "remote", "base_url": "https://api.example.com/v1"}}


def test_what_takes_effect_at_a_start_only_is_refused_by_its_name() -> None:
    with pytest.raises(Misconfigured, match=r"spec\.gateway\.port changed"):
        what_changes(of(named("a")), of(named("a"), gateway={"port": 9000}))
