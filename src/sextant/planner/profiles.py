"""What an industry, a regulation and our assumptions add to stated requirements. For `advise.py`; pure.

What the user states stands, also against the profile (it is then said); only a regulation raises it.
"""

from __future__ import annotations

import msgspec

from sextant.spec.advice import LEVELS, Requirements, Said
from sextant.spec.advice_data import ModesData

STRICTER = ("data", "stays")
"""Requirements whose words are in order of strictness, and which a regulation may raise."""


class Settled(msgspec.Struct, frozen=True):
    """Requirements with nothing open but budgets, latency and load; what was added; what did not agree."""

    effective: Requirements
    assumed: tuple[Said, ...]
    disagreements: tuple[Said, ...]


def settle(asked: Requirements, data: ModesData) -> Settled:
    """`asked` with the profile's values where it says nothing, then the assumptions, then raised to what the
    regulations ask at least."""
    found = {field: getattr(asked, field) for field in Requirements.__struct_fields__}
    assumed: list[Said] = []
    disagreements: list[Said] = []
    if asked.profile is not None:
        own = data.profile[asked.profile].assumed
        assumed += _fill(found, msgspec.structs.asdict(own), "assumed.profile", asked.profile)
        disagreements += _weaker_than_profile(asked, msgspec.structs.asdict(own), data)
    assumed += _fill(found, msgspec.structs.asdict(data.assumed), "assumed.default", None)
    for regulation in asked.regulation:
        least = data.regulation[regulation]
        for field in STRICTER:
            floor = getattr(least, field)
            if strictness(field, found[field]) >= strictness(field, floor):
                continue
            was = getattr(asked, field)
            said = Said(
                "contradiction.regulation" if was is not None else "assumed.regulation",
                {
                    "regulation": f"@regulation.{regulation}",
                    "field": f"@field.{field}",
                    "asked": f"@{field}.{found[field]}",
                    "value": f"@{field}.{floor}",
                },
            )
            (assumed if was is None else disagreements).append(said)
            found[field] = floor
    return Settled(Requirements(**found), tuple(assumed), tuple(disagreements))


def strictness(field: str, word: str) -> int:
    """How strict a word of `data` or `stays` is, from 0."""
    return LEVELS[field].index(word)


def _fill(found: dict[str, object], values: dict[str, object], key: str, profile: str | None) -> list[Said]:
    """Puts `values` where nothing stands; says each."""
    said = []
    for field, value in values.items():
        if value is None or found[field] is not None:
            continue
        found[field] = value
        shown: dict[str, str | float | tuple[str, ...]] = {
            "field": f"@field.{field}",
            "value": f"@{field}.{value}" if isinstance(value, str) else f"{value:g}",
        }
        if profile is not None:
            shown["profile"] = f"@profile.{profile}"
        said.append(Said(key, shown))
    return said


def _weaker_than_profile(asked: Requirements, own: dict[str, object], data: ModesData) -> list[Said]:
    """Where the user says less than is usual; not where a regulation raises it, which is said instead."""
    found = []
    for field in STRICTER:
        said, usual = getattr(asked, field), own[field]
        if said is None or usual is None or strictness(field, said) >= strictness(field, str(usual)):
            continue
        floors = (getattr(data.regulation[one], field) for one in asked.regulation)
        if any(strictness(field, floor) > strictness(field, said) for floor in floors):
            continue
        found.append(
            Said(
                "contradiction.profile",
                {
                    "profile": f"@profile.{asked.profile}",
                    "field": f"@field.{field}",
                    "asked": f"@{field}.{said}",
                    "value": f"@{field}.{usual}",
                },
            )
        )
    return found
