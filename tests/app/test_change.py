"""What another document changes of what runs: which engines go on, start and end, and what is refused."""

from __future__ import annotations

import pytest
from gitops_under_test import document, model

from sextant.app.change import Change, Flag, Started
from sextant.app.change import what_changes as changes_since
from sextant.base.errors import Misconfigured
from sextant.spec.document import Deployment, parse_document


def of(*models: dict[str, object], **spec: object) -> Deployment:
    return parse_document(document(*models, **spec), name="sextant.yaml")


def what_changes(old: Deployment, new: Deployment, **flags: Flag) -> Change:
    """From the document that it started with."""
    return changes_since(
        old, new, Started(old, {f"spec.{k.replace('_', '.', 1)}": flag for k, flag in flags.items()})
    )


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


PORT = Flag("--port", 9000)


@pytest.mark.parametrize("port", [8000, 8100])
def test_a_document_may_say_what_a_flag_said_or_what_the_document_of_the_start_said(port: int) -> None:
    """`sextant up FILE --port 9000` listens on 9000, whatever the file says."""
    began = of(named("a"), gateway={"port": port})
    for same in ({"gateway": {"port": 9000}}, {"gateway": {"port": port}}, {"gateway": {}}, {}):
        assert what_changes(began, of(named("b"), **same), gateway_port=PORT).fresh == (0,)


def test_a_third_port_is_refused_with_what_is_in_use() -> None:
    began = of(named("a"))
    said = r"spec\.gateway\.port \(9000 is in use, by --port\) changed"
    with pytest.raises(Misconfigured, match=said):
        what_changes(began, of(named("a"), gateway={"port": 9001}), gateway_port=PORT)
    with pytest.raises(Misconfigured, match=r"spec\.control\.port changed"):
        what_changes(began, of(named("a"), control={"port": 9000}), gateway_port=PORT)


def test_what_counts_is_what_was_started_and_not_what_was_applied_last() -> None:
    """A port that a flag overruled went, and comes back; a key of the environment likewise."""
    keyed = {**remote(), "engine": {**remote()["engine"], "api_key": "env:AWAY"}}  # type: ignore[dict-item]
    began = of(named("a"), keyed, gateway={"port": 8100})
    started = Started(began, {"spec.gateway.port": PORT})
    now = of(named("a"), gateway={"port": 9000})
    assert changes_since(began, now, started).gone == (1,)
    assert changes_since(now, began, started).fresh == (1,)
