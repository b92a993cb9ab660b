"""`trimtab worker`: what it must be told, and that it says so."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from controlplane.cli.worker import worker
from controlplane.model.errors import InvalidSpec
from controlplane.settings import worker_settings

GIVEN = {"TRIMTAB_DATABASE_URL": "postgresql://u@h/d", "TRIMTAB_BROKER_URL": "redis://h/0"}


@pytest.mark.parametrize("missing", sorted(GIVEN))
def test_addresses_have_no_default(missing: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        worker_settings({name: value for name, value in GIVEN.items() if name != missing})
    assert caught.value.field == missing


def test_settings_are_read() -> None:
    found = worker_settings({**GIVEN, "TRIMTAB_OTHERS_PCT": "50", "TRIMTAB_BESIDE_LIVE": "true"})
    assert (found.database, found.broker) == ("postgresql://u@h/d", "redis://h/0")
    assert (found.others_pct, found.beside_live, found.folder) == (50, True, "/run/trimtab")


def test_a_share_above_100_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="0 to 100"):
        worker_settings({**GIVEN, "TRIMTAB_OTHERS_PCT": "101"})


def test_help_names_both_roles() -> None:
    text = CliRunner().invoke(worker, ["--help"]).output
    assert "{trials|driver}" in text.lower() and "--broker" in text
