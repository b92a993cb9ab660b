"""What a broker may and may not make a worker do."""

from __future__ import annotations

import pytest

from tuner.tasks import TRIALS, make_app


def test_messages_are_json_and_the_subscription_that_notices_a_dead_broker_stays() -> None:
    app = make_app("redis://127.0.0.1:1/0")
    assert app.conf.worker_enable_remote_control is True
    assert list(app.conf.accept_content) == ["json"] and app.conf.task_serializer == "json"


def test_a_message_that_is_no_id_is_dropped(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[str] = []
    app = make_app("redis://127.0.0.1:1/0", trial=seen.append)
    for what in ("j/0", {"job": "j"}, "x" * 129, None):
        app.tasks[TRIALS](what)
    assert seen == ["j/0"] and caplog.text.count("no id was dropped") == 3
