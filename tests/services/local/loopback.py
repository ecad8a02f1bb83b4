"""Everything that touches the network: free ports, HTTP requests, and waiting until a service answers.

Only loopback is ever listened on. Requests never go through a proxy, whatever the environment says.
"""

import random
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field

from .failure import Failure

HOST = "127.0.0.1"

# Below the ports that Linux gives to outgoing connections (32768 and up by default). A port from that range would be
# taken by some client while its service is down, or worse: a client that keeps connecting to a dead port of that range
# in time gets it as its own source port, is connected to itself, and the service can not come back.
PORTS = range(18_000, 32_000)

_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@dataclass
class Answer:
    """Status and body of an HTTP answer, of an error as of a success."""

    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "replace").strip()


@dataclass
class Request:
    """One HTTP request; the method is GET without a body and POST with one, unless it is named."""

    url: str
    body: bytes | None = None
    method: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    timeout: float = 10.0


def send(request: Request) -> Answer:
    """Sends a request and returns the answer whatever its status is; raises OSError if there is none."""
    wire = urllib.request.Request(request.url, request.body, request.headers, method=request.method)
    try:
        with _direct.open(wire, timeout=request.timeout) as answer:
            return Answer(answer.status, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answer(error.code, error.read())


def expect_ok(request: Request) -> Answer:
    """Sends a request and raises ConnectionError, with what was answered, unless the status is below 400."""
    answer = send(request)
    if answer.status >= 400:
        raise ConnectionError(f"{request.url} answers {answer.status}: {answer.text[:200]}")
    return answer


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    with socket.socket() as probe:
        # As servers do, or a port would count as taken for a minute after its service stopped.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def free_port(taken: set[int]) -> int:
    """A random free port that is not in `taken`. Random, so that two callers at once rarely pick the same."""
    for port in random.sample(PORTS, len(PORTS)):
        if port not in taken and is_free(port):
            return port
    raise Failure(f"no free port from {PORTS.start} to {PORTS.stop - 1}; stop what holds them")


def wait_for(check: Callable[[], None], alive: Callable[[], bool], seconds: float) -> None:
    """Repeats a check until it raises no OSError; Failure if the time is over or the process has ended."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return check()
        except OSError as error:
            if not alive():
                raise Failure("ended before it answered") from error
            if time.monotonic() > deadline:
                raise Failure(f"does not answer after {seconds:.0f} s ({error})") from error
        time.sleep(0.05)
