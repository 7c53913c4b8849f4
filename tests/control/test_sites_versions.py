"""A box and its centre of different versions: what one does not know is refused aloud, nothing is lost."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from control_under_test import Control, control_with_ledger

from ledger_under_test import FlatRates, row
from sextant.app.courier import Unreachable, _understood
from sextant.app.forwarding import Forwarder
from sextant.app.outbox import Outbox
from sextant.spec.sites import ForwardStatus, SiteAnswer, SiteBatch
from sextant.store.accounts_tenants import TenantChange
from sextant.store.ledger_file import LedgerFile
from sextant.store.ledger_reading import ledger_view

NOW_MS = 1_795_000_500_000


class NewerBox:
    """The line of a box whose rows say more than this centre knows. `upgraded`: the centre knows it, too."""

    def __init__(self, control: Control, credential: str) -> None:
        self.client = control.with_token(credential)
        self.upgraded = False
        self.asked = 0

    def send(self, batch: SiteBatch) -> SiteAnswer:
        self.asked += 1
        body = msgspec.to_builtins(batch)
        for one in body["rows"] if not self.upgraded else ():
            one["energy_j"] = 12
        answer = self.client.post("/v1/sites/shanghai/usage", json=body)
        return _understood(answer.status_code, answer.content)


def test_an_older_centre_refuses_a_newer_boxs_rows_aloud_and_takes_them_all_when_it_is_upgraded(
    tmp_path: Path,
) -> None:
    with control_with_ledger(tmp_path) as control:
        control.accounts.create_tenant("plants", TenantChange())
        made = control.client.post("/v1/sites", json={"id": "shanghai", "tenants": {"default": "plants"}})
        line = NewerBox(control, made.json()["credential"])
        file = tmp_path / "box.db"
        ledger = LedgerFile(file, numbered=True)
        ledger.append([row(f"r{n}") for n in range(40)], FlatRates(3))
        outbox = Outbox(file)
        forwarder = Forwarder(
            outbox, line, status=ForwardStatus(), now_ms=lambda: NOW_MS, chance=random.Random(1)
        )
        pauses = [forwarder.step() for _ in range(12)]
        status = forwarder.status
        assert "422" in status.trouble and "energy_j" in status.trouble
        assert (status.waiting_rows, status.sent_rows, status.number) == (40, 0, 0)
        assert pauses[-1] > 0, "it does not turn in circles"
        assert control.client.get("/v1/sites/shanghai").json()["rows"] == 0
        line.upgraded = True
        for _ in range(12):
            forwarder.step()
        assert (forwarder.status.waiting_rows, forwarder.status.trouble) == (0, "")
        assert control.client.get("/v1/sites/shanghai").json()["rows"] == 40
        with ledger_view(control.settings.ledger_db) as view:
            [(count, cost_nano)] = view.query("SELECT count(*), sum(cost_nano) FROM site_usage")
        with ledger_view(file) as view:
            [(made_rows, charged_nano)] = view.query("SELECT count(*), sum(cost_nano) FROM usage")
        assert (count, cost_nano) == (made_rows, charged_nano)
        ledger.close()


def test_a_newer_centres_answer_is_understood_by_what_this_box_knows() -> None:
    said = (
        b'{"through": 3, "through_id": "r3", "booked": 3, "held": 0, "known": 0, "differing": 0, "carbon": 1}'
    )
    assert _understood(200, said) == SiteAnswer(3, "r3", booked=3)
    with pytest.raises(Unreachable, match="cannot be read"):
        _understood(200, b'{"through": "three"}')
