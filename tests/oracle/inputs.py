"""Reading input files into lines, the way the job's contract says: only \\n ends a line, one \\r before it is dropped."""

import gzip
import io
import struct
from pathlib import Path

import zstandard


def read_bytes(path):
    """The unpacked bytes of a plain, .gz or .zst file, whatever number of members or frames it has."""
    raw = Path(path).read_bytes()
    if raw[:2] == b"\x1f\x8b":
        return gzip.decompress(raw)
    if raw[:4] == b"\x28\xb5\x2f\xfd":
        reader = zstandard.ZstdDecompressor().stream_reader(io.BytesIO(raw), read_across_frames=True)
        return reader.read()
    return raw


def lines_of(path, prefix=None):
    """(number from 1, line) of every line that is not white space, within the first `prefix` lines."""
    lines = read_bytes(path).split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    if prefix is not None:
        if prefix > len(lines):
            raise SystemExit(f"{path} has {len(lines)} lines, but a prefix of {prefix} was asked for")
        lines = lines[:prefix]
    for number, line in enumerate(lines, 1):
        if line.endswith(b"\r"):
            line = line[:-1]
        if line.strip(b" \t\r\n"):
            yield number, line


def varint(number):
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def write_row_binary(files, prefixes, out):
    """Writes (file UInt32, n UInt64, line String) rows in ClickHouse's RowBinary; gives the number of rows."""
    rows = 0
    for file, path in enumerate(files):
        for number, line in lines_of(path, prefixes.get(str(path))):
            out.write(struct.pack("<IQ", file, number) + varint(len(line)) + line)
            rows += 1
    return rows
