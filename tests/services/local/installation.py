"""Installing a service once per checkout, and finding the tools that this takes.

An installation is a folder `NAME-VERSION`. It is made beside its place and renamed into it, under a lock, so it is
either whole or not there, however many callers want it at once and whatever interrupts them.
"""

import fcntl
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .failure import Failure

CACHE = Path(__file__).resolve().parents[3] / ".cache/services"
INSTALLED = CACHE / "installed"

# tool -> how to get it.
REMEDIES = {
    "mvn": "apt-get install maven (3.6 or newer)",
    "go": "get Go 1.25 or newer from https://go.dev/dl",
    "npm": "apt-get install npm, or get Node.js from https://nodejs.org",
}


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file; waits for whoever holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install(name: str, fill: Callable[[Path], None]) -> Path:
    """The folder of an installation; `fill` puts its content into an empty folder if it is not there yet."""
    place = INSTALLED / name
    if place.is_dir():
        return place
    with locked(INSTALLED / f".{name}.lock"):
        if place.is_dir():
            return place
        unfinished = Path(tempfile.mkdtemp(prefix=f".{name}.", dir=INSTALLED))
        try:
            fill(unfinished)
            unfinished.chmod(0o755)
            unfinished.rename(place)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return place


def tool(name: str) -> str:
    """The path of a program on PATH; Failure with the way to get it if there is none."""
    found = shutil.which(name)
    if found is None:
        raise Failure(f"`{name}` is not on PATH; {REMEDIES[name]}")
    return found


def run(command: list[str], log: Path, folder: Path, environment: dict[str, str] | None = None) -> None:
    """Runs one step of an installation with its output in the log; Failure names the log if the step fails."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        done = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    if done.returncode != 0:
        step = f"{Path(command[0]).name} {command[1]}"
        raise Failure(f"`{step} ...` ended with {done.returncode}; is its registry within reach? see {log}")


def java(least: int) -> str:
    """The path of a Java of at least this version: the one on PATH if it will do, else the first one that is found."""
    for program in _javas():
        if _java_version(program) >= least:
            return str(program)
    raise Failure(f"Java {least} or newer is not there; apt-get install a JDK or set JAVA_HOME_{least}")


def _javas() -> Iterator[Path]:
    """Candidates in order: PATH, JAVA_HOME and the like (JAVA_HOME_21, JAVA_HOME_21_X64), the usual folders."""
    if found := shutil.which("java"):
        yield Path(found)
    homes = [Path(value) for name, value in sorted(os.environ.items()) if re.match(r"JAVA_HOME(_|$)", name)]
    for folder in [Path("/usr/lib/jvm"), Path("/opt"), Path.home() / ".sdkman/candidates/java", Path.home() / ".jdks"]:
        if folder.is_dir():
            homes += sorted(folder.iterdir())
    for home in homes:
        if (program := home / "bin/java").is_file():
            yield program


def _java_version(program: Path) -> int:
    """The major version: from the JDK's `release` file, or from the program itself; 0 if neither tells."""
    release = program.resolve().parent.parent / "release"
    try:
        text = release.read_text(encoding="utf-8")
    except OSError:
        done = subprocess.run([str(program), "-version"], capture_output=True, text=True)
        text = done.stderr + done.stdout
    version = re.search(r'(?:JAVA_VERSION=|version )"(\d+)', text)
    return int(version[1]) if version else 0
