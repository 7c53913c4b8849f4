"""A policy that cannot be carried out is refused when it is set, not when somebody's data has left."""

from __future__ import annotations

import pytest

from sextant.base.errors import BadRequest
from sextant.privacy.policy import check_policy
from sextant.spec.policy import PrivacyPolicy


@pytest.mark.parametrize(
    ("policy", "field", "said"),
    [
        (PrivacyPolicy(actions={"PHONES": "mask"}), "privacy.actions", "'PHONES', which nothing finds"),
        (PrivacyPolicy(actions={"NAME": "mask"}), "privacy.actions", "add it to opt_in"),
        (PrivacyPolicy(opt_in=("PHONE",)), "privacy.opt_in", "NAME, ADDRESS"),
        (PrivacyPolicy(patterns={"MRN": "("}), "privacy.patterns.MRN", "no RE2 expression"),
        (PrivacyPolicy(patterns={"mrn": "x"}), "privacy.patterns", "capitals"),
    ],
)
def test_it_names_what_is_wrong(policy: PrivacyPolicy, field: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        check_policy(policy)
    assert caught.value.field == field


def test_what_can_be_carried_out_passes() -> None:
    check_policy(PrivacyPolicy())
    check_policy(
        PrivacyPolicy(
            otherwise="mask",
            actions={"CN_ID": "block", "MRN": "route", "NAME": "mask"},
            opt_in=("NAME",),
            patterns={"MRN": "x+"},
        )
    )
