"""Tables on disk: they come back bit for bit, or not at all."""

import dataclasses
import subprocess
import sys
import threading

import numpy as np
import pytest

from controlplane.model.plans import Provenance
from tests.unit.tuner.step.fakes import FakeParts
from tuner.serving.case import EngineCase
from tuner.serving.step import store as store_module
from tuner.serving.step.store import NotMeasured, TableStore, cache_folder, key_of
from tuner.serving.step.tabulate import tabulate

CASE = EngineCase(model="llama-3.1-8b", accelerator="h200-sxm-141gb", engine="vllm")
KEY = key_of(CASE, "0.12.0")


@pytest.fixture(scope="module")
def table():
    return tabulate(FakeParts(), Provenance(tier="sibling", source="fake", notes=["why"]), draft_tokens=2)


@pytest.fixture
def store(tmp_path):
    return TableStore(tmp_path / "tables")


def _same(one, two):
    for field in dataclasses.fields(one):
        a, b = getattr(one, field.name), getattr(two, field.name)
        if isinstance(a, np.ndarray):
            assert a.tobytes() == b.tobytes(), field.name
            assert a.shape == b.shape
        else:
            assert a == b


def test_a_table_comes_back_bit_for_bit(store, table):
    assert store.get(KEY) is None
    store.put(KEY, table)
    _same(store.get(KEY), table)


def test_why_nothing_was_measured_is_kept_too(store):
    store.put(KEY, NotMeasured(("vllm: table-miss",)))
    assert store.get(KEY) == NotMeasured(("vllm: table-miss",))


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:100],
        lambda data: data[:-8],
        lambda data: data + b"\0" * 8,
        lambda data: data[:-3] + bytes([data[-3] ^ 1]) + data[-2:],
        lambda data: b"x" + data[1:],
        lambda data: data.replace(b'"measured"', b'"mxasured"').replace(b'"sibling"', b'"sibbing"'),
        lambda data: data[:21] + b"\xff\xff\xff\xff" + data[25:],
    ],
)
def test_a_damaged_file_is_not_trusted(store, table, damage):
    store.put(KEY, table)
    path = store.path(KEY)
    path.write_bytes(damage(path.read_bytes()))
    assert store.get(KEY) is None
    store.put(KEY, table)
    _same(store.get(KEY), table)


def test_a_file_under_another_name_is_not_trusted(store, table):
    store.put(KEY, table)
    other = key_of(CASE, "0.13.0")
    store.path(KEY).rename(store.path(other))
    assert store.get(other) is None


def test_the_key_changes_with_what_the_table_depends_on(monkeypatch):
    others = [
        key_of(dataclasses.replace(CASE, tensor_parallel=2), "0.12.0"),
        key_of(dataclasses.replace(CASE, kv_quant="fp8"), "0.12.0"),
        key_of(CASE, "0.13.0"),
    ]
    monkeypatch.setattr(store_module, "_sources", lambda: "other code")
    others.append(key_of(CASE, "0.12.0"))
    monkeypatch.setattr(store_module, "_facts", lambda model, accelerator: "a corrected data sheet")
    others.append(key_of(CASE, "0.12.0"))
    assert len({KEY, *others}) == 6


def test_the_key_is_the_same_in_every_process():
    code = (
        "from tuner.serving.case import EngineCase; from tuner.serving.step.store import key_of;"
        "print(key_of(EngineCase(model='llama-3.1-8b', accelerator='h200-sxm-141gb', engine='vllm'), '0.12.0'))"
    )
    for seed in ("1", "2"):
        found = subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PATH": ""}, capture_output=True, check=True
        )
        assert found.stdout.decode().strip() == KEY


def test_many_writers_and_readers_see_whole_files(store, table):
    failures = []

    def work():
        for _ in range(10):
            store.put(KEY, table)
            if store.get(KEY) is None:
                failures.append("torn")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [path.suffix for path in store.folder.iterdir()] == [".steps"]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, table):
    (tmp_path / "file").write_text("in the way")
    store = TableStore(tmp_path / "file" / "tables")
    store.put(KEY, table)
    assert store.get(KEY) is None


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.setenv("TRIMTAB_CACHE_DIR", str(tmp_path / "here"))
    assert cache_folder() == tmp_path / "here"
    monkeypatch.delenv("TRIMTAB_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "trimtab"
