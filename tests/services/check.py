#!/usr/bin/env python3
"""Checks the local services: starts them all in a folder of their own, uses, kills, pauses and stops them.

    check.py

Goes through the same commands as people do. Prints one line per step with its time, and exits 0 only if every answer
was right, data outlived `kill -9`, and nothing is left running. Other folders with services are not touched.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from local import installation, kafka_protocol, processes
from local.failure import Failure
from local.lifecycle import Lifecycle
from local.loopback import HOST, Request, expect_ok, free_port, send
from local.processes import Launch, State
from local.run_folder import RunFolder
from local.s3_signature import signed
from services import SERVICES

PROGRAM = Path(__file__).with_name("services.py")
# Seconds for a start of everything that is installed.
WARM_START = 20


@contextmanager
def step(text: str) -> Iterator[None]:
    before = time.monotonic()
    yield
    print(f"{time.monotonic() - before:5.1f} s  {text}", flush=True)


class Check:
    """The services of one folder, and what was put into them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.run = RunFolder(folder)

    def command(self, *arguments: str, **variables: str) -> list[str]:
        """A call of services.py; none of the caller's own services is used, only those given as variables."""
        own = {service.variable for service in SERVICES.values()}
        kept = {name: value for name, value in os.environ.items() if name not in own}
        self.last = subprocess.run([sys.executable, str(PROGRAM), *arguments, "--dir", str(self.folder)],
                                   env=kept | variables, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
        return self.last.stdout.splitlines()

    def must(self, *arguments: str) -> list[str]:
        lines = self.command(*arguments)
        assert self.last.returncode == 0, f"{arguments} ended with {self.last.returncode}: {lines}"
        return lines

    def address(self, name: str) -> str:
        return self.run.records()[name].address

    def pids(self) -> dict[str, int | None]:
        return {name: record.pid for name, record in self.run.records().items()}

    def sql(self, text: str) -> str:
        return expect_ok(Request(self.address("clickhouse"), text.encode())).text

    def object(self, body: bytes | None = None) -> str:
        """Puts an object, or gets it."""
        request = Request(f"{self.address('s3')}/tidemill/check/some=key", body, "PUT" if body else "GET")
        return expect_ok(signed(request, self.run.records()["s3"].exports)).text

    def registry(self, path: str, content: Any = None) -> Any:
        body = None if content is None else json.dumps(content).encode()
        headers = {"content-type": "application/vnd.schemaregistry.v1+json"} if body else {}
        return json.loads(expect_ok(Request(f"{self.address('registry')}{path}", body, None, headers)).body)

    def fill(self) -> None:
        kafka_protocol.create_topic(self.address("kafka"), "check", 3)
        self.sql("CREATE TABLE tidemill.checked (id UInt64) ENGINE = MergeTree ORDER BY id "
                 "SETTINGS non_replicated_deduplication_window = 100")
        for _ in range(2):
            self.sql("INSERT INTO tidemill.checked SETTINGS async_insert = 0, insert_deduplication_token = 'a' "
                     "VALUES (1), (2), (3)")
        self.object(b"content")
        self.schema = self.registry("/subjects/check-value/versions", {"schema": '"string"'})["id"]

    def find(self) -> None:
        assert "check" in kafka_protocol.metadata(self.address("kafka")).topics, "the topic is gone"
        assert self.sql("SELECT count(), sum(id) FROM tidemill.checked") == "3\t6", "rows are lost or doubled"
        assert self.object() == "content", "the object is gone"
        assert self.registry(f"/schemas/ids/{self.schema}")["schema"] == '"string"', "the schema is gone"

    def through_proxy(self) -> None:
        """Reads through a new proxy, and not through one that is switched off."""
        port = free_port(set())
        upstream = self.address("clickhouse").removeprefix("http://")
        proxy = {"name": "check", "listen": f"{HOST}:{port}", "upstream": upstream, "enabled": True}
        proxies = f"{self.address('toxiproxy')}/proxies"
        expect_ok(Request(proxies, json.dumps(proxy).encode()))
        query = Request(f"http://{HOST}:{port}", b"SELECT sum(id) FROM tidemill.checked")
        assert expect_ok(query).text == "6"
        expect_ok(Request(f"{proxies}/check", b'{"enabled": false}'))
        try:
            send(query)
        except OSError:
            return
        raise AssertionError("a proxy that is switched off lets requests through")

    def hang(self) -> None:
        """A paused service accepts connections and answers nothing, then goes on where it was."""
        self.must("pause", "clickhouse")
        assert "paused" in "".join(self.must("status", "clickhouse"))
        try:
            send(Request(self.address("clickhouse"), b"SELECT 1", timeout=0.5))
            raise AssertionError("a paused service answers")
        except TimeoutError:
            pass
        self.must("resume", "clickhouse")
        assert self.sql("SELECT 1") == "1"

    def external(self) -> None:
        """A service named by a variable is used and survives `stop`; one that does not answer is reported."""
        with tempfile.TemporaryDirectory() as folder:
            other = Check(Path(folder))
            other.command("start", "clickhouse", CLICKHOUSE_URL=self.address("clickhouse"))
            assert other.last.returncode == 0 and other.run.records()["clickhouse"].external
            assert f"CLICKHOUSE_URL={self.address('clickhouse')}" in other.must("env")[0]
            other.must("stop")
            assert self.sql("SELECT 1") == "1", "a service of somebody else was stopped"
            [line] = other.command("start", "s3", S3_ENDPOINT=f"http://{HOST}:{free_port(set())}")
            assert other.last.returncode == 1 and "S3_ENDPOINT names" in line, line

    def foreground(self) -> None:
        """Services in the foreground end with the standard input of the command, and at a signal."""
        for ends in (lambda shell: shell.stdin.close(), lambda shell: shell.terminate()):
            self._foreground_until(ends)

    @staticmethod
    def _foreground_until(ends: Callable[[Any], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, str(PROGRAM), "start", "--foreground", "toxiproxy", "--dir", folder]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as shell:
                assert shell.stdin and shell.stdout
                shell.stdout.readline()
                assert shell.stdout.readline() == "ready\n"
                record = RunFolder(Path(folder)).records()["toxiproxy"]
                at_first = record.state
                assert at_first is State.RUNNING
                ends(shell)
                assert shell.wait(20) == 0
            assert record.state is State.GONE, "left running by --foreground"

    def only_loopback(self) -> None:
        """The services listen on their recorded ports and on no other, and on no other interface."""
        inodes = {os.readlink(entry) for pid in self.pids().values() for entry in Path(f"/proc/{pid}/fd").iterdir()}
        listening = []
        for table in ("tcp", "tcp6"):
            for line in Path("/proc/net", table).read_text(encoding="utf-8").splitlines()[1:]:
                fields = line.split()
                if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                    interface, _, port = fields[1].partition(":")
                    # 127.0.0.1, and the same as an IPv6 address: the last word, in the machine's byte order.
                    assert interface.endswith("0100007F"), f"listens beyond loopback: {line}"
                    listening.append(int(port, 16))
        recorded = [port for record in self.run.records().values() for port in record.ports.values()]
        assert sorted(listening) == sorted(recorded), (listening, recorded)


def wrong_process_is_safe(folder: Path) -> None:
    """A record whose process is gone signals nothing, even if another process has its id now."""
    right = processes.launch(Launch(["sleep", "600"], {}, "/"), folder / "sleep.log")
    for wrong in (replace(right, started=right.started - 1), replace(right, command=["sleep", "601"])):
        assert processes.state(wrong) is State.GONE
        processes.end(wrong, 1)
    assert processes.state(right) is State.RUNNING, "a process that is not ours was ended"
    processes.pause(right)
    processes.end(right, 5)
    assert processes.state(right) is State.GONE


def missing_tools_are_named(folder: Path) -> None:
    """Without tools each installation fails with a line that says what to get, and leaves nothing behind."""
    path, place = os.environ["PATH"], installation.INSTALLED
    os.environ["PATH"], installation.INSTALLED = str(folder), folder / "installed"
    try:
        for name, service in SERVICES.items():
            try:
                Lifecycle(service, RunFolder(folder)).install()
                raise AssertionError(f"{name} was installed out of nothing")
            except Failure as failure:
                assert "not on PATH" in str(failure) or "Java" in str(failure), failure
        left = [entry.name for entry in installation.INSTALLED.iterdir() if not entry.name.endswith(".lock")]
        assert not left, left
    finally:
        os.environ["PATH"], installation.INSTALLED = path, place


def exercise(check: Check) -> None:
    with step("install what is missing"):
        check.must("install")
    before = time.monotonic()
    with step("start all"):
        check.must("start")
    seconds = time.monotonic() - before
    assert seconds < WARM_START, f"started in {seconds:.1f} s; {WARM_START} s is the limit"
    with step("each service takes and gives back"):
        check.fill()
        check.find()
        check.through_proxy()
    with step("they listen on loopback only"):
        check.only_loopback()
    with step("start again finds all running"):
        pids = check.pids()
        check.must("start")
        assert check.pids() == pids, "a service that ran was started anew"
    with step("pause and resume"):
        check.hang()
    for name in ("clickhouse", "kafka", "registry", "s3"):
        with step(f"kill -9 and restart {name}: data and ports are kept"):
            ports = check.run.records()[name].ports
            check.must("kill", name)
            check.command("status", name)
            assert check.last.returncode == 1 and "gone" in check.last.stdout
            check.must("restart", name)
            assert check.run.records()[name].ports == ports
            check.find()
    with step("a service of somebody else is used and left alone"):
        check.external()
    with step("foreground ends with its input and at a signal"):
        check.foreground()
    with step("stop leaves nothing running, and data for the next start"):
        records = check.run.records().values()
        check.must("stop")
        assert all(record.state is State.GONE for record in records), "left running"
        assert all(pid is None for pid in check.pids().values())
        check.must("start")
        check.find()
    with step("wipe ends them and deletes all data"):
        records = check.run.records().values()
        check.must("wipe")
        assert all(record.state is State.GONE for record in records), "left running"
        assert not list(check.folder.glob("data/*")), "data is left"
        assert not check.must("env"), "variables of stopped services are left"


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="tidemill-services-"))
    check = Check(folder)
    try:
        with step("a process is never taken for another"):
            wrong_process_is_safe(folder)
        with step("what is missing is named"):
            missing_tools_are_named(folder)
        exercise(check)
    except BaseException:
        check.command("stop")
        print(f"failed; logs are in {folder}/logs", flush=True)
        raise
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
