#!/usr/bin/env python3
"""A double of the query API for tests of the dashboard's layout: made-up traffic, the real files, no pipeline.

    fake_api.py [--port N] [--scenario live|history|empty] [--seed N] [--expect FILE]

Prints `serving http://127.0.0.1:PORT` when it listens. `live` ends now and grows once a second, `history` is a day of
a year ago, drained and exact, with eight stray events of today and one of a year to come, `empty` has never seen an event. --expect writes what `run.mjs` shall find for `history`.
GET /fake/silent?on=1 makes the API answer 503 until /fake/silent?on=0. Numbers of the real API are tested against the
oracle; this one only has to be plausible.
"""

import argparse
import json
import random
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlparse

DASHBOARD = Path(__file__).resolve().parents[2] / "query/dashboard"
KINDS = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = ("default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
          "base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
MINUTE = 60_000
STEPS = {"minute": MINUTE, "hour": 60 * MINUTE, "day": 1440 * MINUTE}
PAGES = ["/", "/pricing", "/docs/getting-started", "/blog/how-we-count-each-event-exactly-once", "/login", "/signup",
         "/docs/pipelines/web-analytics/sessions-and-windows-that-are-never-wrong", "/about", "/careers", "/docs/sql",
         "/changelog", "/status"]
VERSIONS = ["4.2.0", "4.1.7", "http-503", "", "4.2.0-beta.3+build.20261123"]
CURRENCIES = [("EUR", 30), ("USD", 12), ("JPY", 2), ("KWD", 2)]
LENGTHS = [0, 1, 10, 60, 300, 900, 1800, 3600]
HISTORY_END = int(datetime(2025, 3, 14, 18, tzinfo=timezone.utc).timestamp() * 1000)


def now_ms():
    return int(time.time() * 1000)


def rfc3339(ms):
    if ms is None:
        return None
    return datetime.fromtimestamp(ms / 1000, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class Traffic:
    """Events as (minute, user, kind, name, amount); sessions as (start, seconds)."""

    def __init__(self, scenario, seed):
        self.scenario, self.random = scenario, random.Random(seed)
        self.events, self.sessions = [], []
        self.epoch, self.committed, self.silent = 0, now_ms(), False
        self.changed = threading.Condition()
        end = HISTORY_END if scenario == "history" else now_ms()
        if scenario != "empty":
            for minute in range(5 * 60 if scenario == "history" else 100, 0, -1):
                self.add_minute((end // MINUTE - minute) * MINUTE, 60 + 25 * ((minute % 60) / 60))
        if scenario == "live":
            # A clock two days ahead must not move the page there.
            self.events.append((end // MINUTE * MINUTE + 2880 * MINUTE, 1, "view", "/", 1))
        if scenario == "history":
            today = now_ms() // MINUTE * MINUTE - 60 * MINUTE
            self.events += [(minute, 1, "view", "/", 1) for minute in [today] * 8 + [today + 3 * 365 * 1440 * MINUTE]]

    def add_minute(self, minute, size):
        for _ in range(int(self.random.gauss(size, 9))):
            self.add_event(minute)

    def add_event(self, minute):
        user, chance = int(self.random.expovariate(1 / 900)), self.random.random()
        if chance < 0.9:
            page = PAGES[min(int(self.random.expovariate(0.45)), len(PAGES) - 1)]
            self.events.append((minute, user, "view", page, 1))
        elif chance < 0.96:
            name, _ = self.random.choices(CURRENCIES, [weight for _, weight in CURRENCIES])[0]
            self.events.append((minute, user, "order", name, self.random.randrange(199, 25_000)))
        else:
            self.events.append((minute, user, "error", self.random.choice(VERSIONS), 1))
        if chance < 0.2:
            self.sessions.append((minute, int(self.random.expovariate(1 / 600)) if chance > 0.05 else 0))

    def commit(self):
        with self.changed:
            if self.scenario == "live":
                for _ in range(self.random.randrange(1, 5)):
                    self.add_event(now_ms() // MINUTE * MINUTE)
            self.epoch, self.committed = self.epoch + 1, now_ms()
            self.changed.notify_all()

    def complete_through(self):
        return {"live": now_ms() - 130_000, "history": HISTORY_END, "empty": None}[self.scenario]

    def select(self, low, high, kind, name=None):
        return [event for event in list(self.events)
                if low <= event[0] < high and event[2] == kind and name in (None, event[3])]


def metric(traffic, name, low, high, currency=None):
    if name == "sessions":
        return sum(1 for start, _ in list(traffic.sessions) if low <= start < high)
    if name == "revenue_cents":
        return sum(event[4] for event in traffic.select(low, high, "order", currency))
    chosen = traffic.select(low, high, "error" if name == "errors" else "view")
    return len({event[1] for event in chosen}) if name == "unique_users" else len(chosen)


def series(traffic, name, low, high, step, currency=None):
    return [{"t": rfc3339(at), "value": metric(traffic, name, at, at + step, currency)} for at in range(low, high, step)]


def top(traffic, by, low, high, limit):
    counted = Counter(event[3] for event in traffic.select(low, high, "view" if by == "page" else "error"))
    ordered = sorted(counted.items(), key=lambda each: (-each[1], each[0]))
    return [{"key": key, "value": value} for key, value in ordered[:limit]]


def totals(traffic, low, high):
    revenue = []
    for name, _ in sorted(CURRENCIES):
        orders = traffic.select(low, high, "order", name)
        if orders:
            revenue.append({"currency": name, "amount_cents": sum(each[4] for each in orders), "orders": len(orders)})
    names = ["views", "unique_users", "sessions", "errors"]
    return {**{name: metric(traffic, name, low, high) for name in names}, "revenue": revenue}


def lengths(traffic, low, high):
    spans = [seconds for start, seconds in list(traffic.sessions) if low <= start < high]
    ends = LENGTHS[1:] + [None]
    return [{"from_s": start, "to_s": end, "count": sum(1 for each in spans if start <= each < (end or 1 << 60))}
            for start, end in zip(LENGTHS, ends)]


def expectations(traffic):
    low, high = 0, HISTORY_END
    found = totals(traffic, low, high)
    return {"exact": True, **{name: found[name] for name in ("views", "unique_users", "sessions", "errors", "revenue")},
            "top_pages": top(traffic, "page", low, high, 10), "errors_by_version": top(traffic, "error_version", low, high, 6),
            "session_lengths": [each["count"] for each in lengths(traffic, low, high)]}


def handler_of(traffic):
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def reply(self, status, kind, body):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Security-Policy", POLICY)
            self.end_headers()
            self.wfile.write(body)

        def reply_json(self, body, status=200):
            self.reply(status, "application/json", json.dumps(body).encode())

        def envelope(self, data, end):
            complete = traffic.complete_through()
            closed = traffic.scenario == "history"
            exact = complete is not None and end <= (now_ms() if closed else complete)
            pending = 12 if traffic.scenario == "live" else 0
            self.reply_json({"complete_through": rfc3339(complete), "updated_at": rfc3339(traffic.committed),
                             "epoch": traffic.epoch, "exact": exact, "pending": pending, "data": data,
                             **({"closed": True} if closed else {})})

        def do_GET(self):
            address = urlparse(self.path)
            asked = {name: values[0] for name, values in parse_qs(address.query).items()}
            if address.path == "/fake/silent":
                traffic.silent = asked["on"] == "1"
                self.reply_json({})
            elif address.path.startswith("/api/v1/"):
                if traffic.silent:
                    self.reply_json({"error": "the lake is not there; wait, or look at its place"}, 503)
                else:
                    self.metric(address.path.removeprefix("/api/v1/"), asked)
            else:
                name = address.path.removeprefix("/assets/") if address.path != "/" else "index.html"
                path = (DASHBOARD / name).resolve()
                if path.is_file() and DASHBOARD in path.parents:
                    self.reply(200, KINDS.get(path.suffix, "text/plain"), path.read_bytes())
                else:
                    self.reply(404, "text/plain", b"no such file")

        def metric(self, name, asked):
            low, high = int(asked.get("from", 0)), int(asked.get("to", 0))
            step = STEPS[asked.get("step", "minute")]
            if name == "changes":
                self.changes()
            elif name == "health":
                self.reply_json({"reachable": traffic.scenario != "empty", "status": self.status(),
                                 "reason": "the server was started without --status http://HOST:PORT of the pipeline"})
            elif name == "range":
                minutes = [event[0] for event in list(traffic.events) if event[0] <= now_ms()]
                ends = (min(minutes), max(minutes)) if minutes else (None, None)
                self.envelope({"from": rfc3339(ends[0]), "to": rfc3339(ends[1])}, 0)
            elif name == "sql":
                tenants = [["default"]] if traffic.scenario != "live" else [["acme"], ["default"]]
                self.reply_json({"columns": ["tenant"], "rows": tenants})
            elif name == "totals":
                self.envelope(totals(traffic, low, high), high)
            elif name == "timeseries":
                self.envelope(series(traffic, asked["metric"], low, high, step, asked.get("currency")), high)
            elif name == "top":
                self.envelope(top(traffic, asked["by"], low, high, int(asked["limit"])), high)
            elif name == "sessions":
                started = series(traffic, "sessions", low, high, step)
                self.envelope({"started": started, "lengths": lengths(traffic, low, high)}, high)
            else:
                self.reply_json({"error": f"there is no /api/v1/{name}"}, 404)

        def status(self):
            return None if traffic.scenario == "empty" else {
                "pipeline": "web_analytics", "run": 3, "workers": 2, "processes": 1, "state": "running",
                "watermark": rfc3339(traffic.complete_through()), "lag_seconds": 131.2,
                "partitions": [{"name": f"events.page_view/{n}", "lag_records": 40 * n} for n in range(4)],
                "rates": {"events_per_second": 1987.4, "bytes_per_second": 830_000},
                "checkpoint": {"epoch": traffic.epoch, "age_seconds": 8.1, "bytes": 812_345}, "why_open": []}

        def changes(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.send_header("Connection", "close")
            self.end_headers()
            try:
                while True:
                    with traffic.changed:
                        traffic.changed.wait(15)
                    self.wfile.write(f"event: commit\ndata: {json.dumps({'epoch': traffic.epoch})}\n\n".encode())
                    self.wfile.flush()
            except OSError:
                self.close_connection = True

    return Handler


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # A page that is closed drops its connections; that is no error.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--scenario", choices=["live", "history", "empty"], default="live")
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--expect", type=Path)
    chosen = options.parse_args()
    traffic = Traffic(chosen.scenario, chosen.seed)
    traffic.commit()
    if chosen.expect:
        chosen.expect.write_text(json.dumps(expectations(traffic), indent=2))
    server = Server(("127.0.0.1", chosen.port), handler_of(traffic))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"serving http://127.0.0.1:{server.server_port}", flush=True)
    try:
        while True:
            time.sleep(1)
            if chosen.scenario == "live":
                traffic.commit()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
