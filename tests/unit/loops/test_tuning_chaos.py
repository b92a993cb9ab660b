"""The benchmark `chaos`, small: a posted job and a TuningJob while API, operator, workers, driver and Redis are killed."""

from __future__ import annotations

import pytest

from tests.perf.bench_chaos import chaos
from tests.servers import ServerMissing


def test_nothing_is_lost_twice_left_over_or_missed_whoever_is_killed() -> None:
    try:
        found = chaos(60, seed=1)
    except ServerMissing as missing:
        pytest.skip(str(missing))
    assert len(found) == 6 and not any(found.values()), found
