"""A spec that our own checks choke on harms nobody but its author, who hears of it."""

from __future__ import annotations

import pytest

from operators.serving import prepared
from operators.serving.prepared import Preparer
from operators.serving.rows import DeploymentRow
from tests.unit.serving.cases import CATALOG
from tests.unit.serving.simulation import NAME, NAMESPACE, SETTINGS, UID, deployment


def test_a_mistake_of_ours_becomes_an_error_of_the_object(monkeypatch: pytest.MonkeyPatch) -> None:
    def mistaken(*_: object) -> None:
        raise KeyError("devicePath")

    monkeypatch.setattr(prepared, "replica_template", mistaken)
    spec = deployment().spec.model_dump_json(by_alias=True, exclude_none=True).encode()
    row = DeploymentRow(
        namespace=NAMESPACE,
        name=NAME,
        uid=UID,
        resource_version="1",
        generation=3,
        created=None,
        deleting=False,
        spec=spec,
        status=b"{}",
    )
    found = Preparer(CATALOG, SETTINGS.render).prepare(row)
    assert found.templates == ()
    (error,) = found.errors
    assert error.reason == "InvalidSpec"
    assert "KeyError: 'devicePath'" in str(error)
