#!/usr/bin/env python3
"""The services that Tidemill's tests and developers use, on this machine (Linux), without containers.

    services.py start [NAME...] [--foreground]   start all or some, reuse what runs, print where they are
    services.py status | stop | wipe | restart | install [NAME...]
    services.py kill | pause | resume NAME...    SIGKILL, SIGSTOP, SIGCONT: what faults look like
    services.py env                              export lines: eval "$(python3 tests/services/services.py env)"

kafka-secure, a broker with TLS, passwords and rights, is started where it is named only.

Every command takes --dir DIR: where data, logs, `env` and `services.json` are (.cache/services/run). Any number of
folders can run at once. Everything listens on loopback only, on ports that were free.

If KAFKA_BROKERS, CLICKHOUSE_URL, SCHEMA_REGISTRY_URL, S3_ENDPOINT or TOXIPROXY_URL is set, the service it names is
used and left alone; it is to have the database or bucket `tidemill`.

Services outlive the command that starts them, until `stop`. With --foreground the command says `ready` once all
answer, stays, and stops what it has started at SIGINT, SIGTERM, or when its standard input ends, as it does when the
program that holds it dies; if one fails to start, it stops the others and ends.

Exits 1 if one of the services failed, after one line per service; the others are started all the same.
"""

import argparse
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local.clickhouse import ClickHouse
from local.failure import Failure
from local.installation import CACHE
from local.kafka import Kafka
from local.kafka_secure import KafkaSecure
from local.lifecycle import Lifecycle
from local.registry import Registry
from local.run_folder import RunFolder
from local.s3 import S3
from local.service import Service
from local.toxiproxy import Toxiproxy

SERVICES: dict[str, Service] = {
    service.name: service for service in (Kafka(), ClickHouse(), Registry(), S3(), Toxiproxy(), KafkaSecure())
}
WIDTH = max(map(len, SERVICES))


def say(name: str, text: str) -> None:
    # One write, as several threads speak.
    try:
        sys.stdout.write(f"{name:{WIDTH}}  {text}\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever listened is dead; what is left to do is done all the same.
        pass


class Commands:
    """The commands, each over the services that were named."""

    def __init__(self, names: list[str], run: RunFolder) -> None:
        self._run = run
        self._lives = {name: Lifecycle(SERVICES[name], run) for name in names}

    def start(self) -> bool:
        return self._each(self._start_one)

    def _start_one(self, name: str, life: Lifecycle) -> str:
        before = time.monotonic()
        record, here = life.start()
        how = f"started in {time.monotonic() - before:.1f} s" if here else "external" if record.external else "runs"
        return f"{record.address}  ({how})"

    def foreground(self) -> bool:
        """Starts, and stops what was not there before when it is told to, or when nobody is left to tell."""
        over = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: over.set())

        def until_input_ends() -> None:
            # Not through sys.stdin, whose lock this thread would still hold when the program ends by a signal.
            while os.read(0, 65_536):
                pass
            over.set()

        threading.Thread(target=until_input_ends, daemon=True).start()
        before = {name for name, life in self._lives.items() if life.state() in ("running", "paused", "external")}
        well = self.start()
        if well and not over.is_set():
            print("ready", flush=True)
            while not over.wait(1):
                _reap()
        self._lives = {name: life for name, life in self._lives.items() if name not in before}
        return self.stop() and well

    def stop(self) -> bool:
        return self._each(lambda _, life: "stopped" if life.stop() else None)

    def wipe(self) -> bool:
        return self._each(lambda _, life: "stopped and wiped" if life.wipe() else "wiped")

    def restart(self) -> bool:
        return self._each(lambda _, life: life.restart().address)

    def install(self) -> bool:
        return self._each(lambda _, life: str(life.install()))

    def kill(self) -> bool:
        return self._fault(Lifecycle.kill, "killed")

    def pause(self) -> bool:
        return self._fault(Lifecycle.pause, "paused")

    def resume(self) -> bool:
        return self._fault(Lifecycle.resume, "resumed")

    def status(self) -> bool:
        """One line each; true if all answer to signals or are somebody else's."""
        states = {name: life.state() for name, life in self._lives.items()}
        records = self._run.records()
        for name, state in states.items():
            record = records.get(name)
            process = f"  pid {record.pid}" if record and record.pid else ""
            say(name, f"{state:8}  {record.address if record else ''}{process}".rstrip())
        return all(state in ("running", "paused", "external") for state in states.values())

    def env(self) -> bool:
        if self._run.environment.exists():
            sys.stdout.write(self._run.environment.read_text(encoding="utf-8"))
        return True

    def _fault(self, act: Callable[[Lifecycle], None], done: str) -> bool:
        def one(_: str, life: Lifecycle) -> str:
            act(life)
            return done

        return self._each(one)

    def _each(self, act: Callable[[str, Lifecycle], str | None]) -> bool:
        """Does one thing with all services side by side and prints a line for each; false if one failed."""

        def one(name: str, life: Lifecycle) -> bool:
            try:
                text = act(name, life)
            except (Failure, OSError) as failure:
                say(name, f"failed: {failure}")
                return False
            if text:
                say(name, text)
            return True

        if not self._lives:
            return True
        with ThreadPoolExecutor(len(self._lives)) as pool:
            return all(list(pool.map(one, self._lives.keys(), self._lives.values())))


def _reap() -> None:
    """Lets go of children that somebody killed; their entries would stay as long as this process does."""
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        pass


def service_name(text: str) -> str:
    if text not in SERVICES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(SERVICES)}")
    return text


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for command in ("start", "stop", "wipe", "status", "install", "env", "restart", "kill", "pause", "resume"):
        one = commands.add_parser(command)
        one.add_argument("--dir", type=Path, default=CACHE / "run", help="where data, logs and records are")
        if command == "start":
            one.add_argument("--foreground", action="store_true", help="stay, and stop them in the end")
        if command != "env":
            # A fault is never meant for everything by default.
            count = "+" if command in ("kill", "pause", "resume", "restart") else "*"
            one.add_argument("names", nargs=count, type=service_name, metavar="NAME", help=", ".join(SERVICES))
    return parser.parse_args()


def main() -> None:
    given = arguments()
    names = list(dict.fromkeys(getattr(given, "names", []))) or [name for name, service in SERVICES.items() if not service.optional]
    commands = Commands(names, RunFolder(given.dir))
    action = "foreground" if getattr(given, "foreground", False) else given.command
    sys.exit(0 if getattr(commands, action)() else 1)


if __name__ == "__main__":
    main()
