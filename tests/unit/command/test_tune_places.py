"""`trimtab tune` says the same of jobs on this machine and of jobs behind an API: words, JSON, refusals, exit codes."""

from __future__ import annotations

import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from click.shell_completion import ShellComplete
from click.testing import Result

from controlplane.cli.tune import tune
from controlplane.cli.tune_follow import Follower
from controlplane.cli.tune_http import Http
from controlplane.main import cli
from controlplane.model.errors import InvalidSpec, Refused, TrimtabError, UnknownName
from controlplane.model.tuning import JobState, TrialPurpose
from controlplane.model.tuning_records import TuningEvent
from controlplane.store.jobs import Jobs
from controlplane.store.steering import Steering
from tests.unit.command.tune_calls import call
from tests.unit.command.tune_places import NOW, SPEC, Filled, Where, filled, measure


@pytest.fixture(params=["local", "server"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filled]:
    where: Where = request.param
    with filled(where, tmp_path / where) as found:
        for name, value in found.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield found


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Filled]:
    with filled("server", tmp_path / "server") as found:
        for name, value in found.env.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(tmp_path)
        yield found


def body(result: Result) -> Any:
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_jobs_are_listed_and_shown(place: Filled) -> None:
    assert [one["name"] for one in body(call("list", "-o", "json"))] == ["nightly-2", "open", "nightly"]
    assert [one["id"] for one in body(call("list", "--state", "done", "-o", "json"))] == ["aa11"]
    shown = call("show", "open").stdout
    assert "search 2/4" in shown and "running" in shown and "loss <= 2" in shown
    whole = body(call("show", "nightly", "-o", "json"))
    assert whole["progress"] == {"searchAsked": 4, "searchEnded": 4, "confirmAsked": 0, "confirmEnded": 0}
    assert "better: 40 % better" in call("show", "nightly").stdout
    assert "aa11" in call("list").stdout


@pytest.mark.parametrize("word", ["nightly", "aa11", "aa"])
def test_a_job_goes_by_name_by_id_and_by_how_its_id_begins(place: Filled, word: str) -> None:
    assert body(call("show", word, "-o", "json"))["id"] == "aa11"


def test_unclear_names_are_refused_with_what_could_be_meant(place: Filled) -> None:
    unclear = call("show", "a").exception
    assert isinstance(unclear, UnknownName) and "aa11" in str(unclear) and "ab22" in str(unclear)
    near = call("show", "nightli").exception
    assert isinstance(near, UnknownName) and "nightly" in str(near)
    for verb in (["pause"], ["extend", "9"], ["why"], ["report"], ["delete", "--yes"]):
        refused = call(verb[0], "absent", *verb[1:])
        assert isinstance(refused.exception, UnknownName) and "no tuning job 'absent'" in str(refused.exception)


def test_trials_and_why(place: Filled) -> None:
    sorted_by_value = body(call("trials", "nightly", "--sort", "value", "--limit", "2", "-o", "json"))
    assert [one["number"] for one in sorted_by_value] == [3, 2]
    assert "out of memory" in call("trials", "nightly", "--state", "infeasible").stdout
    one = body(call("why", "nightly", "3", "-o", "json"))
    assert one["trial"]["setting"] == {"micro": 4} and one["measured"][0]["measurement"]["metrics"]["step_ms"] == 10.0
    said = call("why", "nightly", "0").stdout
    assert "loss over by 1" in said and "covers the space" in said and "MEASURED" in said
    assert "1 infeasible: out of memory (first: trial 1)" in call("why", "nightly").stdout
    absent = call("why", "nightly", "99").exception
    assert isinstance(absent, UnknownName) and "0 to 3" in str(absent)


def test_best_ends_with_1_where_there_is_none(place: Filled) -> None:
    assert body(call("best", "nightly", "-o", "json"))["best"]["setting"] == {"micro": 4}
    assert call("best", "nightly").exit_code == 0
    none = call("best", "nightly-2")
    assert none.exit_code == 1 and "nothing is confirmed yet" in none.stderr


def test_jobs_are_steered(place: Filled) -> None:
    assert call("pause", "open").stdout == "open is paused\n"
    resumed = call("resume", "open")
    assert resumed.stdout == "open is running\n" and "trimtab tune" in resumed.stderr
    assert body(call("extend", "open", "+3", "-o", "json"))["budget"] == 7
    assert body(call("extend", "nightly", "9", "-o", "json"))["state"] == "running"
    less = call("extend", "open", "5").exception
    assert isinstance(less, TrimtabError) and "budget.trials" in str(less) and "8 to" in str(less)
    assert call("extend", "open", "-5").exit_code == 2
    copy = body(call("clone", "open", "copy", "-o", "json"))
    assert copy["clonedFrom"] == "ab22" and copy["counts"]["asked"] == 0
    taken = call("clone", "open", "copy").exception
    assert isinstance(taken, Refused) and taken.reason == "AlreadyExists" and "choose another name" in str(taken)
    assert call("cancel", "open").stdout == "open is cancelled\n"
    over = call("resume", "open").exception
    assert isinstance(over, Refused) and "the job is cancelled" in str(over) and "clone it" in str(over)
    assert call("delete", "copy", "--yes").stdout == "deleted copy\n"
    assert isinstance(call("show", "copy").exception, UnknownName)


def test_report_and_bundle_are_files(place: Filled, tmp_path: Path) -> None:
    assert call("report", "nightly").stdout == "nightly.html\n" and "<svg" in (tmp_path / "nightly.html").read_text()
    assert call("bundle", "nightly", "--out", "b.tar.gz").stdout == "b.tar.gz\n"
    with tarfile.open(tmp_path / "b.tar.gz") as found:
        assert "nightly/again.json" in found.getnames()


def test_a_job_is_checked_before_it_is_made(place: Filled, tmp_path: Path) -> None:
    spec = json.loads(json.dumps(SPEC))
    spec["space"]["rules"] = [{"expression": "micro <= 4", "message": "m"}]
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    assert body(call("check", "job.yaml", "-o", "json"))["rules"][0]["takesPct"] == pytest.approx(75, abs=2)
    spec["space"]["rules"].append({"expression": "micro >= 9", "message": "m"})
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(spec))
    assert call("check", "job.yaml").exit_code == 1
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC | {"sampler": "defualt"}))
    for verb in ("check", "run"):
        wrong = call(verb, "job.yaml").exception
        assert isinstance(wrong, UnknownName) and "sampler" in str(wrong) and "default" in str(wrong)


def test_watching_ends_with_the_job(place: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = threading.Event()
    tell = Follower.tell

    def told(self: Follower, wait_s: float = 0.0) -> list[TuningEvent]:
        begun.set()
        return tell(self, wait_s)

    monkeypatch.setattr(Follower, "tell", told)

    def drive() -> None:
        assert begun.wait(30)
        measure(place.database, "ab22", [None, 5.0], first=2)
        Steering(place.database).end("ab22", JobState.DONE, reason="Done", message="", now=NOW)

    driver = threading.Thread(target=drive)
    driver.start()
    watched = call("watch", "open")
    driver.join()
    assert watched.exit_code == 0, watched.output
    assert "trial 2 (search) infeasible" in watched.stderr and "trial 3 (search) done  step_ms 5" in watched.stderr
    assert "search 4/4" in watched.stdout
    over = call("watch", "open", "-o", "json")
    assert over.exit_code == 0 and over.stdout == ""
    assert call("cancel", "nightly-2").exit_code == 0 and call("watch", "nightly-2").exit_code == 1


def test_what_differs_between_them_is_where_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: dict[str, list[Any]] = {}
    monkeypatch.setenv("TRIMTAB_TOKEN", "alice-token")
    with ExitStack() as stack:
        places: list[Where] = ["local", "server"]
        for where in places:
            found = stack.enter_context(filled(where, tmp_path / where))
            said[where] = [
                (result.exit_code, result.stdout.replace('"team"', '"local"'))
                for verb in (["list"], ["show", "nightly"], ["trials", "nightly"], ["best", "open"], ["why", "nightly"], ["why", "open", "1"])
                for result in [call(*verb, *found.options, "-o", "json")]
            ]  # fmt: skip
    assert said["local"] == said["server"]


def test_a_name_in_two_namespaces_needs_one_of_them(server: Filled) -> None:
    record = Jobs(server.database).get("ab22")
    Jobs(server.database).create("dd44", tenant="other", name="open", spec=record.spec, now=NOW)
    unclear = call("show", "open").exception
    assert isinstance(unclear, UnknownName) and "dd44 (other/open)" in str(unclear) and "ab22" in str(unclear)
    assert body(call("show", "open", "-n", "other", "-o", "json"))["id"] == "dd44"
    assert body(call("show", "dd44", "-o", "json"))["tenant"] == "other"


def test_a_job_runs_there_and_is_followed(server: Filled, tmp_path: Path) -> None:
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(SPEC))

    def drive() -> None:
        deadline_s = time.monotonic() + 30
        while (made := Jobs(server.database).named("team", "fresh")) is None and time.monotonic() < deadline_s:
            time.sleep(0.05)
        assert made is not None
        measure(server.database, made.id, [3.0, 2.0])
        Steering(server.database).end(made.id, JobState.DONE, reason="Done", message="", now=NOW)

    driver = threading.Thread(target=drive)
    driver.start()
    ran = call("run", "job.yaml", "--name", "fresh", "-n", "team", "--beside-live", "-o", "json")
    driver.join()
    assert ran.exit_code == 0, (ran.output, ran.exception)
    assert json.loads(ran.stdout)["spec"]["pods"]["besideLive"] and "trial 1 (search) done" in ran.stderr
    left = call("run", "job.yaml", "--name", "left", "-n", "team", "--detach")
    assert left.exit_code == 0 and "tune watch left --server" in left.stderr
    assert call("run", "job.yaml", "--others-pct", "50").exit_code == 2
    manifest = {"kind": "TuningJob", "metadata": {"name": "stated", "namespace": "other"}, "spec": SPEC}
    (tmp_path / "tj.yaml").write_text(yaml.safe_dump(manifest))
    assert body(call("run", "tj.yaml", "--detach", "-o", "json"))["tenant"] == "other"
    assert body(call("run", "tj.yaml", "--detach", "-n", "team", "-o", "json"))["tenant"] == "team"


def test_a_job_here_takes_no_words_of_an_api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_STATE_DIR", str(tmp_path))
    assert call("list", "-n", "team").exit_code == 2
    assert call("run", "--resume", "x", "--detach").exit_code == 2
    assert call("list", "--server", "http://127.0.0.1:1", "--state-dir", str(tmp_path)).exit_code == 2


def test_ctrl_c_leaves_the_job_running_and_says_how_to_come_back(server: Filled) -> None:
    command = [sys.executable, "-m", "controlplane", "tune", "watch", "open", "-n", "team"]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    child = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert child.stderr is not None
    reader = threading.Thread(target=child.stderr.readline)
    reader.start()
    for number in range(2, 60):  # until it has seen one
        measure(server.database, "ab22", [7.0], first=number)
        reader.join(0.5)
        if not reader.is_alive():
            break
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=30)
    assert child.returncode == 130, said
    assert f"trimtab tune watch open --server {server.env['TRIMTAB_SERVER']} -n team" in said and "open goes on" in said
    assert Jobs(server.database).get("ab22").state is JobState.RUNNING


def test_runs_of_two_jobs_there_are_compared_from_their_bundles(server: Filled) -> None:
    nothing = call("compare", "nightly", "nightly#baseline")
    assert isinstance(nothing.exception, InvalidSpec) and "no confirmed run" in str(nothing.exception)
    assert call("compare", "micro=1", "default", *server.options).exit_code == 2
    Steering(server.database).extend("aa11", trials=5, now=NOW)
    measure(server.database, "aa11", [10.0, 10.2, 9.8], first=4, micro=4, purpose=TrialPurpose.CONFIRM)
    measure(server.database, "aa11", [20.0, 20.4, 19.6], first=7, micro=1, purpose=TrialPurpose.BASELINE)
    found = body(call("compare", "nightly", "nightly#baseline", "-o", "json"))
    assert found["verdict"] == "faster" and found["gains"][0]["gainPct"]["mean"] == pytest.approx(100, abs=5)
    assert "not side by side" in found["message"] and "whose own decision takes the runs of a round" in found["message"]


def test_what_the_api_says_no_to_is_said_in_its_words(server: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_TOKEN", "nobody")
    unknown = call("list").exception
    assert isinstance(unknown, Refused) and unknown.reason == "Unauthorized" and "kubectl create token" in str(unknown)
    monkeypatch.setenv("TRIMTAB_TOKEN", "bob-token")
    everywhere = call("list").exception
    assert isinstance(everywhere, Refused) and "-n" in str(everywhere)
    assert len(body(call("list", "-n", "team", "-o", "json"))) == 3
    forbidden = call("pause", "open", "-n", "team").exception
    assert isinstance(forbidden, Refused) and forbidden.reason == "Forbidden" and "update" in str(forbidden)
    monkeypatch.delenv("TRIMTAB_TOKEN")
    assert isinstance(call("list").exception, InvalidSpec)


def test_an_api_that_is_not_there_says_what_to_look_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_TOKEN", "t")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    gone = call("list", "--server", url).exception
    assert isinstance(gone, Refused) and gone.reason == "ServerUnreachable" and "is the address right" in str(gone)


@pytest.mark.parametrize(
    "url",
    ["http://[::1", "http://a..b", "http://ex/\u00e4", "http://h:abc", "http://h/?a=b", "ftp://h", "http://a b", "h"],
)
def test_what_is_no_address_is_said(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TRIMTAB_TOKEN", "t")
    refused = call("list", "--server", url).exception
    assert isinstance(refused, InvalidSpec) and "is no address" in str(refused)


@pytest.mark.parametrize("url", ["http://me:hunter2@h", "http://me:hunter2@h:x", "http://hunter2@[h"])
def test_a_password_in_an_address_is_refused_and_not_repeated(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("TRIMTAB_TOKEN", "t")
    refused = call("list", "--server", url).exception
    assert isinstance(refused, InvalidSpec) and "hunter2" not in str(refused) and "TRIMTAB_TOKEN" in str(refused)


class Cut(http.server.BaseHTTPRequestHandler):
    """A connection that is lost within its answer."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b"half of a bundle")

    def log_message(self, format: str, *args: Any) -> None: ...


def test_half_an_answer_is_none() -> None:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Cut) as cut:
        threading.Thread(target=cut.serve_forever, daemon=True).start()
        with pytest.raises(Refused) as refused:
            Http(f"http://127.0.0.1:{cut.server_address[1]}", "t").call("GET", "/v1/tuning-jobs/j/bundle")
        cut.shutdown()
    assert refused.value.reason == "NoAnswer"


class Strange(http.server.BaseHTTPRequestHandler):
    """A server that is no Trimtab API."""

    def do_GET(self) -> None:
        self.send_response(200 if "trials" not in self.path else 500)
        self.end_headers()
        self.wfile.write(b'{"hello": 1}')

    def log_message(self, format: str, *args: Any) -> None: ...


def test_another_server_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_TOKEN", "t")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange) as strange:
        threading.Thread(target=strange.serve_forever, daemon=True).start()
        refused = call("list", "--server", f"http://127.0.0.1:{strange.server_address[1]}").exception
        strange.shutdown()
    assert isinstance(refused, Refused) and "is it a Trimtab API" in str(refused)


def test_the_shell_completes_names(place: Filled) -> None:
    complete = ShellComplete(cli, {}, "trimtab", "_TRIMTAB_COMPLETE")
    assert [one.value for one in complete.get_completions(["tune", "show"], "night")] == ["nightly-2", "nightly"]
    assert "watch" in [one.value for one in complete.get_completions(["tune"], "wa")]


@pytest.mark.parametrize(
    ("word", "meant"), [("statsu", "show"), ("export", "bundle"), ("follw", "watch"), ("rm", "delete")]
)
def test_a_wrong_word_gets_the_nearest(word: str, meant: str) -> None:
    said = call(word)
    assert said.exit_code == 2 and f"did you mean {meant!r}" in said.stderr


def test_every_verb_shows_an_example() -> None:
    for name in tune.commands:
        assert f"trimtab tune {name}" in call(name, "--help").stdout, name
