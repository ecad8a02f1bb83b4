#!/usr/bin/env python3
"""Compares the tables of `top_pages` and `funnel` with what plain Python makes of the events that ClickHouse accepts.

Nothing here is shared with the pipelines: events are parsed and deduplicated by the engine of oracle.py, then counted and
searched one by one. Holds where nothing was too old to be judged.

    compare_views.py FILE... --top-pages DIR --funnel DIR --tidemill BINARY [--format combined]

Prints the first differences and exits 1 on any.
"""

import argparse
import bisect
import sys
from collections import Counter, defaultdict
from datetime import datetime, timedelta

from compare import query
from oracle import EPOCH, Oracle, rfc3339

MINUTE, HOUR, PLACES, SHOWN = 60_000, 3_600_000, 10, 5


def top_pages(events, watermark):
    """The ten most viewed pages of each tenant in the minutes of the hour before the watermark, and its own."""
    views, last = Counter(), {}
    for event in events:
        minute = event["timestamp"] // MINUTE * MINUTE
        if event["event_type"] == "page_view" and watermark - HOUR < minute <= watermark:
            page = (event["tenant"], event["page"] or "")
            views[page] += 1
            last[page] = max(last.get(page, minute), minute)
    by_tenant = defaultdict(list)
    for (tenant, page), number in views.items():
        by_tenant[tenant].append((-number, page.encode(), page))
    for tenant, pages in by_tenant.items():
        for rank, (number, _, page) in enumerate(sorted(pages)[:PLACES], start=1):
            yield tenant, page, rank, -number, rfc3339(last[tenant, page])


def funnel(events):
    """Of each tenant and hour of a view: who viewed, who then clicked, who then purchased, within an hour of the view."""
    steps = defaultdict(lambda: {"page_view": [], "click": [], "purchase": []})
    for event in events:
        times = steps[event["tenant"], event["user_id"]].get(event["event_type"])
        if times is not None:
            times.append(event["timestamp"])
    users = defaultdict(set)
    for (tenant, user), times in steps.items():
        clicks, purchases = sorted(times["click"]), sorted(times["purchase"])
        for view in times["page_view"]:
            hour = view // HOUR * HOUR
            users[tenant, hour, "page_view"].add(user)
            at = bisect.bisect_left(clicks, view)
            if at == len(clicks) or clicks[at] > view + HOUR:
                continue
            users[tenant, hour, "click"].add(user)
            then = bisect.bisect_left(purchases, clicks[at])
            if then < len(purchases) and purchases[then] <= view + HOUR:
                users[tenant, hour, "purchase"].add(user)
    for (tenant, hour, step), of in users.items():
        yield tenant, rfc3339(hour), step, len(of)


def agree(name, expected, found):
    """Whether both hold the same rows; prints what differs."""
    expected, found = Counter(expected), Counter(found)
    if not expected:
        print(f"{name}: the oracle has no rows, so nothing was compared")
    for sign, rows in (("missing", expected - found), ("too much", found - expected)):
        for row in list(rows.elements())[:SHOWN]:
            print(f"{name}: {sign}: {row}")
    return bool(expected) and expected == found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+")
    parser.add_argument("--top-pages", required=True)
    parser.add_argument("--funnel", required=True)
    parser.add_argument("--tidemill", required=True)
    parser.add_argument("--format", default="ndjson")
    options = parser.parse_args()
    columns = "tenant, user_id, event_type, page, timestamp"
    events = Oracle(options.files, options.format).rows(f"SELECT {columns} FROM accepted")

    def rows(data, table, columns):
        answer = query(argparse.Namespace(tidemill=options.tidemill, data=data), f"SELECT {columns} FROM {table}")
        return [tuple(row.values()) for row in answer]

    ((complete_through,),) = set(rows(options.top_pages, "progress", "complete_through"))
    at = datetime.fromisoformat(complete_through.replace("Z", "+00:00"))
    watermark = (at - EPOCH) // timedelta(milliseconds=1)
    pages = rows(options.top_pages, "top_pages", "tenant, page, rank, views, last_view")
    steps = rows(options.funnel, "funnel", "tenant, hour, step, users")
    good = [agree("top_pages", top_pages(events, watermark), pages), agree("funnel", funnel(events), steps)]
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
