"""The two requests of the Kafka protocol that starting and checking a broker takes.

Both in old versions without tagged fields, which brokers from 2.x to 4.x speak: Metadata 1 and CreateTopics 2.
https://kafka.apache.org/protocol
"""

import socket
import struct
from dataclasses import dataclass

METADATA = 3
CREATE_TOPICS = 19
CREATE_ACLS = 30


@dataclass(frozen=True)
class Metadata:
    """The brokers as `host:port`, and the names of the topics."""

    brokers: list[str]
    topics: list[str]


class _Reader:
    """Reads the primitive types of the protocol one after the other."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def _take(self, layout: str) -> int:
        value: int = struct.unpack_from(layout, self._data, self._at)[0]
        self._at += struct.calcsize(layout)
        return value

    def flag(self) -> bool:
        return bool(self._take(">b"))

    def int16(self) -> int:
        return self._take(">h")

    def int32(self) -> int:
        return self._take(">i")

    def string(self) -> str:
        length = max(self.int16(), 0)
        self._at += length
        return self._data[self._at - length:self._at].decode()


def _string(text: str) -> bytes:
    return struct.pack(">h", len(text)) + text.encode()


def _ask(brokers: str, key: int, version: int, body: bytes) -> _Reader:
    """Sends one request to the first of the brokers (`host:port,...`) and returns its answer after the header."""
    host, _, port = brokers.split(",")[0].rpartition(":")
    header = struct.pack(">hhi", key, version, 1) + _string("tidemill-services")
    with socket.create_connection((host.strip("[]"), int(port)), timeout=10) as connection:
        connection.sendall(struct.pack(">i", len(header) + len(body)) + header + body)
        with connection.makefile("rb") as answers:
            size = answers.read(4)
            answer = answers.read(struct.unpack(">i", size)[0]) if len(size) == 4 else b""
    if len(answer) < 4:
        raise ConnectionError("the broker closed the connection without an answer")
    reader = _Reader(answer)
    reader.int32()
    return reader


def metadata(brokers: str) -> Metadata:
    """Brokers and topics of the cluster; ConnectionError while no broker is ready for clients.

    A broker answers soon after it was started, but names none, not even itself, until the controller lets it serve.
    """
    answer = _ask(brokers, METADATA, 1, struct.pack(">i", -1))
    found, topics = [], []
    for _ in range(answer.int32()):
        answer.int32()
        found.append(f"{answer.string()}:{answer.int32()}")
        answer.string()
    answer.int32()
    for _ in range(answer.int32()):
        answer.int16()
        topics.append(answer.string())
        answer.flag()
        for _ in range(answer.int32()):
            answer.int16(), answer.int32(), answer.int32()
            for _ in range(2):
                for _ in range(answer.int32()):
                    answer.int32()
    if not found:
        raise ConnectionError("no broker is registered yet")
    return Metadata(found, topics)


def allow(brokers: str, principal: str) -> None:
    """Lets a user read and describe topics, use groups and begin transactions; ConnectionError if that is refused."""
    anything, literal, read, describe, write, permit = "*", 3, 3, 8, 4, 3
    topic, group, transactional_id = 2, 3, 5
    rights = [(topic, read), (topic, describe), (group, read), (transactional_id, write), (transactional_id, describe)]
    body = struct.pack(">i", len(rights))
    for kind, operation in rights:
        body += struct.pack(">b", kind) + _string(anything) + struct.pack(">b", literal) + _string(principal)
        body += _string(anything) + struct.pack(">bb", operation, permit)
    answer = _ask(brokers, CREATE_ACLS, 1, body)
    answer.int32()
    for _ in range(answer.int32()):
        code = answer.int16()
        if code != 0:
            raise ConnectionError(f"the broker refuses rights of {principal} with error code {code}: {answer.string()}")
        answer.string()


def create_topic(brokers: str, name: str, partitions: int) -> None:
    """Creates a topic with one replica; ConnectionError with the protocol's error code if it is refused."""
    topic = _string(name) + struct.pack(">ihii", partitions, 1, 0, 0)
    answer = _ask(brokers, CREATE_TOPICS, 2, struct.pack(">i", 1) + topic + struct.pack(">ib", 10_000, 0))
    answer.int32()
    for _ in range(answer.int32()):
        answer.string()
        code = answer.int16()
        if code != 0:
            raise ConnectionError(f"the broker refuses topic {name} with error code {code}: {answer.string()}")
