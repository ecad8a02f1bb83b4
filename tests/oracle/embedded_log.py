"""Reading an embedded log folder by its format alone: every record that its topics hold, without the job's reader.

    DIR/TOPIC/PARTITION/BASE.log: batches, one after another, all numbers little-endian:
    | "TMB1" | length u32 | crc u32 | note's length u32 | base offset u64 | count u32 | first time i64 | last time i64 |
    | note | record | record | ..          record = | time i64 | key's length u32 | value's length u32 | key | value |

For logs that were written to their end: what was never published would be read too.
"""

import struct
from pathlib import Path

HEADER = struct.Struct("<4sIIIQIqq")
RECORD = struct.Struct("<qII")


def segment(path):
    """The values in a segment."""
    data, at, offset = path.read_bytes(), 0, int(path.stem)
    while at < len(data):
        magic, length, _, note, base, count, _, _ = HEADER.unpack_from(data, at)
        if magic != b"TMB1" or base != offset:
            raise SystemExit(f"{path}: no batch from offset {offset} on begins at byte {at}")
        place = at + HEADER.size + note
        for _ in range(count):
            _, key, value = RECORD.unpack_from(data, place)
            start = place + RECORD.size + key
            place = start + value
            yield data[start:place]
        at, offset = at + length, offset + count
        if place != at:
            raise SystemExit(f"{path}: the batch before byte {at} is not as long as its records")


def values(root):
    """The values of all records, partition by partition, each in its order."""
    for topic in sorted(Path(root).glob("*/topic.json")):
        for partition in sorted(topic.parent.glob("[0-9]*/")):
            for path in sorted(partition.glob("*.log")):
                yield from segment(path)
