#!/usr/bin/env python3
"""Runs the ClickHouse program that is inside `libchdb.so`.

    clickhouse_launcher.py LIBRARY ARGUMENT...
"""

import ctypes
import os
import sys


def main() -> None:
    library = ctypes.CDLL(sys.argv[1])
    arguments = [b"clickhouse", *map(os.fsencode, sys.argv[2:])]
    library.query_stable_v2.argtypes = [ctypes.c_int, ctypes.POINTER(ctypes.c_char_p)]
    library.query_stable_v2.restype = ctypes.c_void_p
    # Comes back only when the last query has ended.
    library.query_stable_v2(len(arguments), (ctypes.c_char_p * len(arguments))(*arguments))


if __name__ == "__main__":
    main()
