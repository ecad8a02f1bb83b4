"""The folder of one set of running services: what is known about them, their data and their logs.

    services.json    one record per service; what every command goes by
    env              the same for a shell: export lines
    data/NAME/       what a service stores
    logs/NAME.log    what it says; install-NAME.log for its installation

Any number of commands may work on a folder at once: a file is replaced whole, and each service has a lock.
"""

import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from .installation import locked
from .processes import Launch, Process, State, state


@dataclass(frozen=True)
class Record:
    """What is known about one service."""

    # One of somebody else, named by a variable: it is used, and never signalled.
    external: bool
    address: str
    # Variables that tell clients where it is.
    exports: dict[str, str]
    # None if it is external or stopped.
    pid: int | None = None
    started: int = 0
    # Kept while it is stopped, so that it comes back where it was.
    ports: dict[str, int] = field(default_factory=dict)
    log: str = ""
    data: str = ""
    # How it was started, and the shell line that starts it again.
    command: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    folder: str = ""
    restart: str = ""

    @property
    def process(self) -> Process | None:
        return None if self.pid is None else Process(self.pid, self.started, self.command)

    @property
    def state(self) -> State:
        """What its process does; one that is external or stopped has none."""
        return State.GONE if self.process is None else state(self.process)

    def started_as(self, process: Process, plan: Launch) -> "Record":
        """This record with the process that now is the service."""
        return replace(self, pid=process.pid, started=process.started, command=plan.command,
                       environment=plan.environment, folder=plan.folder)

    def stopped(self) -> "Record":
        """This record without a process."""
        return replace(self, pid=None, started=0)


class RunFolder:
    """The one owner of every path in the folder, and of the records."""

    def __init__(self, folder: Path) -> None:
        # Services have working folders of their own.
        self.folder = folder.resolve()
        self.environment = self.folder / "env"
        self._records = self.folder / "services.json"

    def data(self, name: str) -> Path:
        return self.folder / "data" / name

    def log(self, name: str) -> Path:
        return self.folder / "logs" / f"{name}.log"

    @contextmanager
    def changing(self, name: str) -> Iterator[None]:
        """Lets one command at a time start or stop a service."""
        with locked(self.folder / f".{name}.lock"):
            yield

    def records(self) -> dict[str, Record]:
        try:
            text = self._records.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        return {name: Record(**fields) for name, fields in json.loads(text).items()}

    def record(self, name: str) -> Record | None:
        return self.records().get(name)

    def keep(self, name: str, record: Record | None) -> None:
        """Replaces or removes the record of a service, and writes the export lines anew."""
        with locked(self.folder / ".records.lock"):
            records = {other: kept for other, kept in self.records().items() if other != name}
            if record is not None:
                records[name] = record
            ordered = dict(sorted(records.items()))
            text = json.dumps({other: asdict(kept) for other, kept in ordered.items()}, indent=2)
            _replace(self._records, text + "\n")
            exports: dict[str, str] = {}
            for kept in ordered.values():
                if kept.external or kept.pid is not None:
                    exports |= kept.exports
            _replace(self.environment, "".join(f"export {key}={shlex.quote(exports[key])}\n" for key in exports))

    def forget_data(self, name: str) -> None:
        """Deletes what a service stored and said."""
        shutil.rmtree(self.data(name), ignore_errors=True)
        for log in (self.log(name), self.log(f"install-{name}")):
            log.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Writes a file so that a reader sees the old text or the new one. It holds keys, so it is its owner's alone."""
    unfinished = path.with_name(f".{path.name}.new")
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    unfinished.rename(path)
