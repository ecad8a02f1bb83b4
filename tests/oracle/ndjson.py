"""NDJSON events as SQL: which lines are malformed, and every column, by ClickHouse's own JSON functions."""


def path(*keys):
    return "line, " + ", ".join(f"'{key}'" for key in keys)


def is_text(*keys):
    # A number beyond 64 bits also has the type String there, so the quote is looked at.
    return f"(JSONType({path(*keys)}) = 'String' AND startsWith(JSONExtractRaw({path(*keys)}), '\"'))"


def text(*keys):
    return f"if({is_text(*keys)}, JSONExtractString({path(*keys)}), NULL)"


def required(key):
    return f"({is_text(key)} AND JSONExtractString({path(key)}) != '')"


# Texts that have a column, and their most bytes.
LONGEST = {
    ("event_id",): 200, ("user_id",): 200, ("event_type",): 200, ("tenant",): 200, ("session_id",): 200,
    ("properties", "page"): 8192, ("properties", "currency"): 32,
    ("context", "app_version"): 200, ("context", "os"): 200, ("context", "screen_resolution"): 200, ("context", "locale"): 200,
    ("geo", "country"): 200, ("geo", "city"): 200,
}
SHORT = " AND ".join(f"(NOT {is_text(*keys)} OR length(JSONExtractString({path(*keys)})) <= {most})" for keys, most in LONGEST.items())

WELL_FORMED = f"""
    length(line) <= 1048576 AND isValidJSON(line) AND JSONType(line) = 'Object'
    AND {required('event_id')} AND {required('event_type')} AND {required('user_id')}
    AND {SHORT}
    AND JSONType({path('timestamp')}) = 'Int64'
    AND JSONExtractInt({path('timestamp')}) BETWEEN 946684800000 AND 7258118400000
    AND (JSONExtractString({path('event_type')}) != 'page_view' OR {is_text('properties', 'page')})
    AND (JSONExtractString({path('event_type')}) != 'purchase' OR (
        JSONType({path('properties', 'amount_cents')}) = 'Int64'
        AND abs(JSONExtractInt({path('properties', 'amount_cents')})) <= 1000000000000000 AND {is_text('properties', 'currency')}))
"""

COLUMNS = f"""
    JSONExtractString({path('event_id')}) AS event_id,
    JSONExtractString({path('event_type')}) AS event_type,
    JSONExtractString({path('user_id')}) AS user_id,
    {text('session_id')} AS session_id,
    JSONExtractInt({path('timestamp')}) AS timestamp,
    if(JSONType({path('server_time')}) = 'Int64' AND JSONExtractInt({path('server_time')}) BETWEEN 946684800000 AND 7258118400000,
        JSONExtractInt({path('server_time')}), NULL) AS server_time,
    {text('context', 'app_version')} AS app_version,
    {text('context', 'os')} AS os,
    {text('context', 'screen_resolution')} AS screen_resolution,
    {text('context', 'locale')} AS locale,
    {text('geo', 'country')} AS country,
    {text('geo', 'city')} AS city,
    {text('properties', 'page')} AS page,
    if(JSONType({path('properties')}) = 'Object', JSONExtractRaw({path('properties')}), NULL) AS properties,
    ifNull(nullIf({text('tenant')}, ''), 'default') AS tenant,
    {text('properties', 'currency')} AS currency,
    JSONExtractInt({path('properties', 'amount_cents')}) AS amount,
    cityHash64(arrayStringConcat(arraySort(arrayMap(pair -> concat(pair.1, char(0), pair.2), arrayFilter(
        pair -> pair.1 NOT IN ('server_time', 'ip', 'geo', 'tenant'), JSONExtractKeysAndValuesRaw(line)))), char(1)))
        AS fingerprint
"""
