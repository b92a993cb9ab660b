"""Plug-ins by name."""

from importlib.metadata import EntryPoint

import pytest

from controlplane.model import registry
from controlplane.model.errors import InvalidSpec, UnknownName
from controlplane.model.registry import Registry

GROUP = "trimtab.things"


@pytest.fixture
def registered(monkeypatch):
    entries: list[EntryPoint] = []
    monkeypatch.setattr(registry, "entry_points", lambda group: [e for e in entries if e.group == group])
    return entries


def things():
    return Registry[object]("thing", GROUP, {"path": "os.path:join"})


def test_ours_and_others(registered):
    import json
    import os.path

    registered.append(EntryPoint("coder", "json:dumps", GROUP))
    found = things()
    assert found.names() == ["coder", "path"]
    assert found.get("coder") is json.dumps
    assert found.get("path") is os.path.join


def test_the_nearest_name(registered):
    with pytest.raises(UnknownName, match="did you mean path") as error:
        things().get("pth", field="spec.thing")
    assert error.value.field == "spec.thing"


def test_one_that_cannot_be_loaded(registered):
    registered.append(EntryPoint("broken", "no_such_module:x", GROUP))
    with pytest.raises(InvalidSpec, match="no_such_module"):
        things().get("broken")


def test_two_of_a_name(registered):
    registered.append(EntryPoint("path", "json:dumps", GROUP))
    with pytest.raises(InvalidSpec, match="two things are called 'path'"):
        things().names()
    registered[:] = [EntryPoint("a", "json:dumps", GROUP), EntryPoint("a", "json:loads", GROUP)]
    with pytest.raises(InvalidSpec):
        things().get("a")
    registered[:] = [EntryPoint("a", "json:dumps", GROUP)] * 2  # the same package seen twice
    assert things().names() == ["a", "path"]
