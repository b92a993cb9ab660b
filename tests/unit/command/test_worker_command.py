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


def test_on_a_cluster_it_is_told_where_it_is_probed_and_what_its_pods_run() -> None:
    alone = worker_settings(GIVEN)
    assert (alone.pods, alone.process.port, alone.engine_images) == (False, 0, {})
    told = {"TRIMTAB_TRIAL_PODS": "true", "TRIMTAB_PORT": "8080", "TRIMTAB_ENGINE_IMAGES": '{"openvino": "r/e:1"}'}
    found = worker_settings({**GIVEN, **told})
    assert (found.pods, found.process.port, found.engine_images) == (True, 8080, {"openvino": "r/e:1"})


def test_pods_may_be_kept_to_some_namespaces() -> None:
    assert worker_settings(GIVEN).namespaces == ()
    assert worker_settings({**GIVEN, "TRIMTAB_TUNING_NAMESPACES": "a, b,a"}).namespaces == ("a", "b")
    with pytest.raises(InvalidSpec, match="A_b"):
        worker_settings({**GIVEN, "TRIMTAB_TUNING_NAMESPACES": "A_b"})


def test_addresses_are_not_shown_as_they_may_hold_passwords() -> None:
    told = {"TRIMTAB_DATABASE_URL": "postgresql://u:secret@h/d", "TRIMTAB_BROKER_URL": "redis://:secret@h/0"}
    assert "secret" not in repr(worker_settings(told))


def test_a_share_above_100_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="0 to 100"):
        worker_settings({**GIVEN, "TRIMTAB_OTHERS_PCT": "101"})


def test_help_names_both_roles() -> None:
    text = CliRunner().invoke(worker, ["--help"]).output
    assert "{trials|driver}" in text.lower() and "--broker" in text
