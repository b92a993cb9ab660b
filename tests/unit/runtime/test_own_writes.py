"""Events of a write of ours that come before its answer."""

import json

import pytest

from controlplane.testing import FakeApiServer
from tests.unit.runtime.helpers import COLLECTION, put, running, until


@pytest.fixture
async def server():
    async with FakeApiServer() as fake:
        yield fake


async def test_the_event_of_our_own_creation_wakes_nobody_when_it_is_faster_than_the_answer(server):
    async with running(server) as (pods, seen):
        with pods.own_write("default/a"):
            ours = put(server, "a")
            await until(lambda: "default/a" in pods.store)
            assert pods.absorb(json.dumps(ours).encode()).name == "a"
        assert seen == []
        put(server, "a", "Running")
        await until(lambda: seen)
        assert seen == [("Pending", "Running", "a")]


async def test_what_others_do_meanwhile_is_told_when_our_write_is_answered(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        with pods.own_write("default/a"):
            put(server, "a", "Running")
            ours = put(server, "a", "Running", labels={"ours": "yes"})
            put(server, "a", "Failed")
            put(server, "b")
            await until(lambda: pods.health.events_total == 4)
            assert seen == [(None, "Pending", "b")]
            pods.absorb(json.dumps(ours).encode())
        assert seen[1:] == [("Pending", "Running", "a"), ("Running", "Failed", "a")]


async def test_a_write_without_an_answer_hides_nothing(server):
    async with running(server) as (pods, seen):
        with pytest.raises(TimeoutError), pods.own_write("default/a"):
            put(server, "a")
            await until(lambda: "default/a" in pods.store)
            raise TimeoutError
        assert seen == [(None, "Pending", "a")]


async def test_a_deletion_during_our_write_is_told(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        with pods.own_write("default/a"):
            ours = put(server, "a", labels={"ours": "yes"})
            server.storage.delete(COLLECTION, "default", "a", {})
            await until(lambda: pods.health.events_total == 2)
            pods.absorb(json.dumps(ours).encode())
        assert seen == [("Pending", None, "a")]


async def test_a_list_during_our_write_is_told_for_it_may_hide_the_changes_of_others(server):
    put(server, "a")
    async with running(server) as (pods, seen):
        seen.clear()
        with pods.own_write("default/a"):
            server.watches.frozen = True
            put(server, "a", "Running")
            ours = put(server, "a", "Running", labels={"ours": "yes"})
            server.storage.compact()
            server.watches.frozen = False
            server.watches.end()
            await until(lambda: pods.health.lists_total == 2)
            pods.absorb(json.dumps(ours).encode())
        assert seen == [("Pending", "Running", "a")]


async def test_writes_that_overlap_are_waited_for_together(server):
    async with running(server) as (pods, seen):
        with pods.own_write("default/a"):
            ours = put(server, "a")
            with pods.own_write("default/a"):
                put(server, "a", "Running")
                await until(lambda: pods.health.events_total == 2)
            assert seen == []
            pods.absorb(json.dumps(ours).encode())
        assert seen == [("Pending", "Running", "a")]
