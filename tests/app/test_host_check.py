"""Which model of a box is measured at install; the measurement itself is in `test_up_centre.py`."""

from __future__ import annotations

import msgspec
import pytest

from sextant.app.host_check import own_model
from sextant.base.errors import Misconfigured
from sextant.spec.snapshot import Fallback, RouteTable, ServedModel, Upstream


def _model(name: str, url: str, fallback: str = "") -> ServedModel:
    made = ServedModel(name, "remote", (Upstream(f"{name}-0", url),))
    return msgspec.structs.replace(made, fallback=Fallback(fallback)) if fallback else made


def test_the_model_is_the_first_whose_engine_is_here() -> None:
    away = _model("elsewhere", "https://centre.example.com/v1")
    way_out = _model("nano-centre", "http://127.0.0.1:7000/v1")  # by a tunnel, say
    own = _model("nano", "http://127.0.0.1:9100/v1", fallback="nano-centre")
    assert own_model(RouteTable(1, (away, way_out, own))) == "nano"


@pytest.mark.parametrize("url", ["https://centre.example.com/v1", "http://10.0.0.9:9100/v1"])
def test_a_box_whose_models_are_all_elsewhere_is_told(url: str) -> None:
    with pytest.raises(Misconfigured, match=r"served: away\), so its speed cannot be measured"):
        own_model(RouteTable(1, (_model("away", url),)))
    with pytest.raises(Misconfigured, match="served: none"):
        own_model(RouteTable(1))
