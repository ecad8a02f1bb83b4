#!/usr/bin/env python3
"""The answers to Nexmark queries 1, 2, 5, 8 and 11 by the ClickHouse engine (PyPI chdb-core), from the same happenings.

Nothing here is shared with the pipelines: windows are arithmetic on times, sessions are window functions.

    nexmark.py HAPPENINGS.ndjson QUERY        one JSON array of values a line, sorted
"""

import sys

from chdb import session

ROWS = """
SELECT * FROM file('{path}', JSONEachRow,
    'kind String, id Int64, name String, seller Int64, auction Int64, bidder Int64, price_cents Int64, time Int64')
"""

QUERIES = {
    "q1": "SELECT auction, bidder, price_cents * 908, time FROM rows WHERE kind = 'bid'",
    "q2": "SELECT auction, bidder, price_cents, time FROM rows WHERE kind = 'bid' AND auction % 123 = 0",
    "q5": """
        WITH counted AS (
            SELECT start, auction, count() AS bids
            FROM rows ARRAY JOIN arrayMap(n -> intDiv(time, 2000) * 2000 - n * 2000, range(5)) AS start
            WHERE kind = 'bid' GROUP BY start, auction)
        SELECT start, auction, bids FROM counted
        WHERE (start, bids) IN (SELECT start, max(bids) FROM counted GROUP BY start)
    """,
    "q8": """
        SELECT p.start, p.id, p.name, count() FROM
            (SELECT intDiv(time, 10000) * 10000 AS start, id, name FROM rows WHERE kind = 'person') AS p
            INNER JOIN (SELECT intDiv(time, 10000) * 10000 AS start, seller FROM rows WHERE kind = 'auction') AS a
            ON p.start = a.start AND p.id = a.seller
        GROUP BY p.start, p.id, p.name
    """,
    "q11": """
        WITH marked AS (
            SELECT bidder, time, time - lagInFrame(time, 1, time - 10001)
                OVER (PARTITION BY bidder ORDER BY time ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) > 10000 AS begins
            FROM rows WHERE kind = 'bid'),
        numbered AS (
            SELECT bidder, time, sum(begins)
                OVER (PARTITION BY bidder ORDER BY time ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS session
            FROM marked)
        SELECT toString(bidder), min(time), max(time), count() FROM numbered GROUP BY bidder, session
    """,
}


def main():
    path, query = sys.argv[1:]
    engine = session.Session()
    text = f"WITH rows AS ({ROWS.format(path=path)}) SELECT * FROM ({QUERIES[query]}) ORDER BY ALL"
    answer = engine.query(text, "JSONCompactEachRow")
    sys.stdout.write(str(answer).replace('"', "").replace(" ", ""))


if __name__ == "__main__":
    main()
