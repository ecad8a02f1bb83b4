"""Starting, stopping, killing, pausing: one service of one run folder.

    no record --start--> running --kill or crash--> gone --start or restart--> running
                         running --pause--> paused --resume--> running
                         any --stop--> stopped (ports and data stay) --wipe--> stopped (ports stay)

A process is recorded as soon as it is started and before it answers, so whatever interrupts a start, `stop` finds it.
"""

import os
import shlex
import sys
import threading
from pathlib import Path

from . import installation, processes
from .failure import Failure
from .loopback import free_port, is_free, wait_for
from .processes import State
from .run_folder import Record, RunFolder
from .service import Place, Service

PROGRAM = Path(__file__).resolve().parents[1] / "services.py"

_choosing = threading.Lock()
_chosen: set[int] = set()


class Lifecycle:
    """What can be done with one service. Every method raises Failure with a line for people."""

    def __init__(self, service: Service, run: RunFolder) -> None:
        self._service = service
        self._name = service.name
        self._run = run

    def install(self) -> Path:
        """The folder of the installation, which is made if it is missing."""
        log = self._run.log(f"install-{self._name}")
        return installation.install(self._service.installation, lambda folder: self._service.install(folder, log))

    def start(self) -> tuple[Record, bool]:
        """Makes the service answer; also tells whether this call started it, rather than found it."""
        with self._run.changing(self._name):
            record = self._run.record(self._name)
            named = os.environ.get(self._service.variable)
            # The variable may come from our own export lines.
            if named and not (record and not record.external and record.address == named):
                return self._use(named, record), False
            if record and record.process and record.state is not State.GONE:
                if record.state is State.PAUSED:
                    processes.resume(record.process)
                self._await(record)
                return record, False
            return self._launch(self._ports(record)), True

    def restart(self) -> Record:
        """Ends the service if it is there, and starts it with the ports and the data it had."""
        with self._run.changing(self._name):
            record = self._ours()
            self._end(record)
            for port in record.ports.values():
                if not is_free(port):
                    raise Failure(f"port {port}, which it had, is taken by another process; `start` picks a new one")
            return self._launch(record.ports)

    def stop(self) -> bool:
        """Ends the service; False if it did not run. One of somebody else is only forgotten."""
        with self._run.changing(self._name):
            record = self._run.record(self._name)
            if record is None:
                return False
            if record.external:
                self._run.keep(self._name, None)
                return False
            before = record.state
            self._end(record)
            return before is not State.GONE

    def wipe(self) -> bool:
        """Ends the service and deletes its data and its logs; False if it did not run."""
        stopped = self.stop()
        with self._run.changing(self._name):
            self._run.forget_data(self._name)
        return stopped

    # These signal only and so need no lock: they must work while the service is being started.

    def kill(self) -> None:
        """Ends the service as a crash would."""
        if self._ours().state is State.GONE:
            raise Failure("is not running")
        processes.kill(self._running())

    def pause(self) -> None:
        """Lets the service hang: connections stay open, nothing is answered."""
        processes.pause(self._running())

    def resume(self) -> None:
        """Lets a hanging service go on."""
        processes.resume(self._running())

    def state(self) -> str:
        """One word on how the service is."""
        record = self._run.record(self._name)
        if record is None:
            return "absent"
        if record.external:
            return "external"
        if record.process is None:
            return "stopped"
        return record.state.value

    def _ours(self) -> Record:
        record = self._run.record(self._name)
        if record is None:
            raise Failure("was never started")
        if record.external:
            raise Failure(f"is one of somebody else at {record.address}; it is left alone")
        return record

    def _running(self) -> processes.Process:
        process = self._ours().process
        if process is None:
            raise Failure("is not running")
        return process

    def _use(self, address: str, record: Record | None) -> Record:
        """Uses the service at an address that a variable gives."""
        variable = self._service.variable
        try:
            wait_for(lambda: self._service.check(address), lambda: True, 5)
        except Failure as failure:
            raise Failure(f"{variable} names {address}, but it {failure}; start that one or unset {variable}") from None
        if record and not record.external:
            self._end(record)
        # What the caller says about it, such as its keys, is right; ours are a guess.
        exports = {name: value if value == address else os.environ.get(name, value)
                   for name, value in self._service.exports(address).items()}
        found = Record(external=True, address=address, exports=exports)
        self._run.keep(self._name, found)
        return found

    def _ports(self, record: Record | None) -> dict[str, int]:
        """The ports the service had if they are free, else new ones."""
        with _choosing:
            known = record and record.ports and record.ports.keys() == set(self._service.ports)
            if record and known and all(map(is_free, record.ports.values())):
                _chosen.update(record.ports.values())
                return record.ports
            ports = {}
            for port in self._service.ports:
                ports[port] = free_port(_chosen)
                _chosen.add(ports[port])
            return ports

    def _launch(self, ports: dict[str, int]) -> Record:
        name, service = self._name, self._service
        place = Place(self.install(), self._run.data(name), ports, self._run.log(name))
        place.log.parent.mkdir(parents=True, exist_ok=True)
        plan = service.prepare(place)
        address = service.address(ports[service.ports[0]])
        again = [sys.executable, str(PROGRAM), "restart", name, "--dir", str(self._run.folder)]
        exports = service.exports(address) | service.beside(place)
        record = Record(external=False, address=address, exports=exports, ports=ports,
                        log=str(place.log), data=str(place.data), restart=shlex.join(again))
        record = record.started_as(processes.launch(plan, place.log), plan)
        self._run.keep(name, record)
        try:
            self._await(record)
        except Failure as failure:
            self._end(record)
            raise Failure(f"{failure}; see {place.log}") from None
        return record

    def _await(self, record: Record) -> None:
        def ready() -> None:
            self._service.check(record.address)
            self._service.furnish(record.address)

        wait_for(ready, lambda: record.state is not State.GONE, self._service.start_patience)

    def _end(self, record: Record) -> None:
        if record.process:
            processes.end(record.process, self._service.stop_patience)
        self._run.keep(self._name, record.stopped())
