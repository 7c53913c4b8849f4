"""The roles that people and service tokens may have; `sextant.control.permissions` says what each may do."""

from __future__ import annotations

from typing import Literal, get_args

Role = Literal["owner", "operator", "auditor", "billing", "member"]
ROLES: tuple[str, ...] = get_args(Role)
