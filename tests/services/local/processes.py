"""Processes that outlive the command which started them: found again, signalled and ended, and never a wrong one.

A process id alone names nobody: once its process is gone, the system gives it to the next. A process is therefore
known by its id, its start time and its command line, all three compared each time before a signal is sent.
"""

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .failure import Failure


class State(Enum):
    """What a recorded process does now."""

    RUNNING = "running"
    PAUSED = "paused"
    GONE = "gone"


@dataclass(frozen=True)
class Launch:
    """Everything needed to start a process once more exactly as it was."""

    command: list[str]
    # Only what is added to the caller's environment.
    environment: dict[str, str]
    folder: str


@dataclass(frozen=True)
class Process:
    """The identity of a started process."""

    pid: int
    # Clock ticks after boot.
    started: int
    command: list[str]


def launch(plan: Launch, log: Path) -> Process:
    """Starts a process in a session of its own, so that the caller's Ctrl-C and end do not reach it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        child = subprocess.Popen(
            plan.command,
            cwd=plan.folder,
            env=os.environ | plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    # The child is ours and not waited for, so its entry is there even if it has ended already.
    _, started = _status(child.pid) or ("Z", 0)
    # Nobody waits for it through this object, and it would complain when it is collected.
    child.returncode = 0
    process = Process(child.pid, started, plan.command)
    # For a moment after the program was loaded its command line is still empty. One that ended at once never has any.
    reaches(process, State.RUNNING, 0.5)
    return process


def state(process: Process) -> State:
    """What the process does now; a zombie, or another process with the same id, counts as gone."""
    status = _status(process.pid)
    if status is None:
        return State.GONE
    letter, started = status
    if letter in "ZX" or started != process.started or _command(process.pid) != process.command:
        return State.GONE
    return State.PAUSED if letter in "Tt" else State.RUNNING


def send(process: Process, number: signal.Signals) -> bool:
    """Signals the process; False if it is gone. No other process can be hit, not even if the id is reused meanwhile."""
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # The handle keeps meaning the same process, so what is checked now is what gets the signal.
        if state(process) is State.GONE:
            return False
        signal.pidfd_send_signal(handle, number)
        return True
    except ProcessLookupError:
        return False
    finally:
        os.close(handle)


def end(process: Process, patience: float) -> None:
    """Asks the process to end, and kills it if it has not after `patience` seconds."""
    send(process, signal.SIGTERM)
    # A paused process would never see the request.
    send(process, signal.SIGCONT)
    if not reaches(process, State.GONE, patience):
        kill(process)


def kill(process: Process) -> None:
    """Ends the process at once and waits until it is gone."""
    send(process, signal.SIGKILL)
    if not reaches(process, State.GONE, 10):
        raise Failure(f"process {process.pid} is still there 10 s after SIGKILL")


def pause(process: Process) -> None:
    """Stops the process where it is."""
    _change(process, signal.SIGSTOP, State.PAUSED)


def resume(process: Process) -> None:
    """Lets a paused process go on."""
    _change(process, signal.SIGCONT, State.RUNNING)


def reaches(process: Process, wanted: State, seconds: float) -> bool:
    """Whether the process reaches a state within the time."""
    deadline = time.monotonic() + seconds
    while state(process) is not wanted:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def _change(process: Process, number: signal.Signals, wanted: State) -> None:
    if not send(process, number):
        raise Failure("is not running")
    if not reaches(process, wanted, 10):
        raise Failure(f"process {process.pid} is not {wanted.value} 10 s after {number.name}")


def _status(pid: int) -> tuple[str, int] | None:
    """State letter and start time of a process (fields 3 and 22 of its `stat`), None if there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may hold anything, parentheses too.
    fields = text.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def _command(pid: int) -> list[str] | None:
    try:
        line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return [part.decode("utf-8", "surrogateescape") for part in line.removesuffix(b"\0").split(b"\0")]
