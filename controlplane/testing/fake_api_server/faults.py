"""What can be made to go wrong, and for which requests."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(slots=True)
class Fault:
    """Applies to requests whose method and path match; the first matching fault with `times` left decides.

    `delay_s` waits first; then at most one of: `status` answers that, `drop_before` closes without having done
    anything, `drop_after` does the work and closes without an answer, `hang` never answers.
    """

    method: str | None = None
    path_contains: str = ""
    times: int | None = None
    probability: float = 1.0
    delay_s: float = 0.0
    status: int | None = None
    retry_after_s: int | None = None
    drop_before: bool = False
    drop_after: bool = False
    hang: bool = False

    def applies(self, method: str, path: str, rng: random.Random) -> bool:
        if self.times == 0 or (self.method is not None and self.method != method) or self.path_contains not in path:
            return False
        if rng.random() >= self.probability:
            return False
        if self.times is not None:
            self.times -= 1
        return True
