"""Common and Combined Log Format as SQL: one anchored pattern, the job's rules for types and pages, hashed users."""

import blake3

# Inside of a quoted field: any byte but a quote, or a backslash and the byte after it.
QUOTED = r'((?:[^"\\\\]|\\\\.)*)'
TIME = r'\\d{2}/(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/\\d{4}:\\d{2}:\\d{2}:\\d{2} [+-]\\d{4}'
PATTERN = (
    rf'^(\\S+) (\\S+) (\\S+) \\[({TIME})\\] "{QUOTED}" (\\d{{3}}) (\\d+|-)(?: "{QUOTED}" "{QUOTED}")?$'
)
REQUEST = r'^(\\S+) (.+) HTTP/[^ ]*$'

WELL_FORMED = f"(length(line) <= 1048576 AND isValidUTF8(line) AND match(line, '{PATTERN}'))"

FIELDS = f"""
    extractGroups(line, '{PATTERN}') AS g,
    g[1] AS address,
    g[9] AS agent,
    extractGroups(g[5], '{REQUEST}') AS request,
    request[1] AS method,
    splitByChar('?', request[2])[1] AS path,
    toInt64(g[6]) AS status,
    toInt64(toUnixTimestamp(parseDateTime(substring(g[4], 1, 20), '%d/%b/%Y:%H:%i:%s', 'UTC'))) * 1000
        - if(substring(g[4], 22, 1) = '-', -1, 1)
          * (toInt64(substring(g[4], 23, 2)) * 3600 + toInt64(substring(g[4], 25, 2)) * 60) * 1000 AS timestamp
"""

ASSETS = "css js mjs map png jpg jpeg gif svg ico webp avif woff woff2 ttf eot mp4 webm mp3".split()
EXTENSIONS = ", ".join(f"'{extension}'" for extension in ASSETS)

# The extension: what follows the last dot of the last segment.
EXTENSION = "lower(extract(path, '\\\\.([^./]*)$'))"
SERVED = "(method = 'GET' AND status < 400)"
NONE = "CAST(NULL AS Nullable(String))"

COLUMNS = f"""
    file, n, 'default' AS tenant, concat(toString(file), ':', toString(n)) AS event_id,
    multiIf(status >= 500, 'error', {SERVED} AND {EXTENSION} IN ({EXTENSIONS}), 'asset', {SERVED}, 'page_view', 'other')
        AS event_type,
    user_id, {NONE} AS session_id, timestamp, CAST(NULL AS Nullable(Int64)) AS server_time,
    if(status >= 500, concat('http-', toString(status)), NULL) AS app_version,
    {NONE} AS os, {NONE} AS screen_resolution, {NONE} AS locale, {NONE} AS country, {NONE} AS city,
    if(event_type = 'page_view', path, NULL) AS page, {NONE} AS properties, {NONE} AS currency, toInt64(0) AS amount,
    toUInt64(0) AS fingerprint
"""

# How the job makes its key from TIDEMILL_HASH_KEY.
CONTEXT = "tidemill 2025 web server log users"


def user_id(secret, address, agent):
    """16 hexadecimal digits of BLAKE3, keyed, over address, a zero byte and agent."""
    key = blake3.blake3(secret.encode(), derive_key_context=CONTEXT).digest()
    return blake3.blake3(address + b"\0" + agent, key=key).hexdigest()[:16]
