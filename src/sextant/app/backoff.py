"""How long to wait before a process that died is started again. Pure: the caller brings the times."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Doubles from `first_s` to `most_s`; a process that was ready for `stable_s` starts over at
    `first_s`."""

    first_s: float = 0.2
    most_s: float = 30.0
    stable_s: float = 60.0

    def next_s(self, last_s: float, ready_for_s: float) -> float:
        """The wait after a death. `last_s` is the wait before the life that ended, 0 for the first life."""
        if last_s <= 0.0 or ready_for_s >= self.stable_s:
            return self.first_s
        return min(last_s * 2, self.most_s)
