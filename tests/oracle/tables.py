"""The tables of the job as SQL over `accepted`, for the ClickHouse engine; times stay milliseconds until printed."""

# A session ends after a gap of more than this many milliseconds.
GAP = 1_800_000

COLUMNS = {
    "page_views_by_minute": ["tenant", "window_start", "page", "views", "users"],
    "sessions": ["tenant", "user_id", "first_event", "last_event", "event_count"],
    "errors_by_version_by_minute": ["tenant", "window_start", "app_version", "errors", "users"],
    "revenue_by_minute": ["tenant", "window_start", "currency", "orders", "amount_cents"],
    "raw_events": [
        "tenant", "event_id", "event_type", "user_id", "session_id", "timestamp", "server_time", "app_version", "os",
        "screen_resolution", "locale", "country", "city", "page", "properties",
    ],
}

TIMES = {"window_start", "first_event", "last_event", "timestamp", "server_time"}

MINUTE = "intDiv(timestamp, 60000) * 60000"

QUERIES = {
    "page_views_by_minute": f"""
        SELECT tenant, {MINUTE} AS window_start, page, count() AS views, uniqExact(user_id) AS users
        FROM accepted WHERE event_type = 'page_view' GROUP BY tenant, window_start, page""",
    "errors_by_version_by_minute": f"""
        SELECT tenant, {MINUTE} AS window_start, ifNull(app_version, '') AS app_version, count() AS errors,
               uniqExact(user_id) AS users
        FROM accepted WHERE event_type = 'error' GROUP BY tenant, window_start, app_version
        SETTINGS prefer_column_name_to_alias = 0""",
    "revenue_by_minute": f"""
        SELECT tenant, {MINUTE} AS window_start, currency, count() AS orders, sum(amount) AS amount_cents
        FROM accepted WHERE event_type = 'purchase' GROUP BY tenant, window_start, currency""",
    "sessions": f"""
        SELECT tenant, user_id, min(timestamp) AS first_event, max(timestamp) AS last_event, count() AS event_count
        FROM (
            SELECT tenant, user_id, timestamp, sum(starts) OVER (
                PARTITION BY tenant, user_id ORDER BY timestamp, file, n ROWS UNBOUNDED PRECEDING) AS session
            FROM (
                SELECT tenant, user_id, timestamp, file, n, timestamp - lagInFrame(timestamp, 1, timestamp) OVER (
                    PARTITION BY tenant, user_id ORDER BY timestamp, file, n
                    ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) > {GAP} AS starts
                FROM accepted))
        GROUP BY tenant, user_id, session""",
    "raw_events": f"SELECT {', '.join(COLUMNS['raw_events'])} FROM accepted",
}
