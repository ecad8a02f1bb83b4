CREATE TABLE tidemill_writers
(
    `name` String,
    `instance` String,
    `pipeline` String,
    `run` UInt64,
    `epoch` UInt64,
    `written_at` DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (name, instance)
COMMENT 'tidemill tables, version 3';

CREATE TABLE tidemill_storages
(
    `name` String,
    `instance` String,
    `uuid` String,
    `blocks` String,
    `written_at` DateTime64(6, 'UTC') DEFAULT now64(6)
)
ENGINE = ReplacingMergeTree(written_at)
ORDER BY (name, instance)
COMMENT 'tidemill tables, version 3';

CREATE TABLE rejected_rows
(
    `tenant` Nullable(String),
    `table` String,
    `epoch` UInt64,
    `row` String,
    `reason` String,
    `inserted_at` DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
ORDER BY (`table`, epoch)
TTL inserted_at + toIntervalDay(90)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE TABLE progress_data
(
    `pipeline` String,
    `epoch` Int64,
    `complete_through` Nullable(DateTime64(3, 'UTC')),
    `file` String,
    `lines` Int64
)
ENGINE = ReplacingMergeTree(epoch)
ORDER BY (pipeline, file)
COMMENT 'tidemill tables, version 3';

CREATE VIEW progress
AS SELECT CAST(NULL, 'Nullable(String)') AS tenant, epoch, complete_through, file, lines FROM (SELECT *, max(epoch) OVER (PARTITION BY pipeline) AS newest FROM progress_data FINAL) WHERE epoch = newest
COMMENT 'tidemill tables, version 3';

CREATE TABLE page_views_by_minute_data
(
    `tenant` String,
    `window_start` DateTime64(3, 'UTC'),
    `page` String,
    `views` SimpleAggregateFunction(sum, Int128),
    `users` AggregateFunction(uniqExact, UInt64),
    `inserted_at` SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now()
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(least(greatest(window_start, toDateTime64('1999-12-31 00:00:00', 3, 'UTC')), toDateTime64('2100-01-01 00:00:00', 3, 'UTC')))
ORDER BY (tenant, window_start, page)
TTL inserted_at + toIntervalDay(730)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE TABLE page_views_by_day_data
(
    `tenant` String,
    `day` Date32,
    `page` String,
    `views` SimpleAggregateFunction(sum, Int128),
    `users` AggregateFunction(uniqExact, UInt64),
    `users_approx` AggregateFunction(uniqCombined64(14), UInt64),
    `inserted_at` SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now()
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(least(greatest(day, toDate32('1999-12-31')), toDate32('2100-01-01')))
ORDER BY (tenant, day, page)
TTL inserted_at + toIntervalDay(730)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE VIEW page_views_by_minute
AS SELECT d.tenant AS tenant, d.window_start AS window_start, d.page AS page, accurateCast(sum(toInt128(d.views)), 'Int64') AS views, toInt64(uniqExactMerge(d.users)) AS users FROM page_views_by_minute_data AS d GROUP BY tenant, window_start, page HAVING sum(toInt128(d.views)) != 0 OR uniqExactMerge(d.users) != 0
COMMENT 'tidemill tables, version 3';

CREATE VIEW page_views_by_day
AS SELECT d.tenant AS tenant, d.day AS day, d.page AS page, accurateCast(sum(toInt128(d.views)), 'Int64') AS views, toInt64(uniqExactMerge(d.users)) AS users, toInt64(uniqCombined64Merge(14)(d.users_approx)) AS users_approx FROM page_views_by_day_data AS d GROUP BY tenant, day, page HAVING sum(toInt128(d.views)) != 0 OR uniqExactMerge(d.users) != 0
COMMENT 'tidemill tables, version 3';

CREATE TABLE errors_by_version_by_minute_data
(
    `tenant` String,
    `window_start` DateTime64(3, 'UTC'),
    `app_version` String,
    `errors` SimpleAggregateFunction(sum, Int128),
    `users` AggregateFunction(uniqExact, UInt64),
    `inserted_at` SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now()
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(least(greatest(window_start, toDateTime64('1999-12-31 00:00:00', 3, 'UTC')), toDateTime64('2100-01-01 00:00:00', 3, 'UTC')))
ORDER BY (tenant, window_start, app_version)
TTL inserted_at + toIntervalDay(730)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE TABLE errors_by_version_by_day_data
(
    `tenant` String,
    `day` Date32,
    `app_version` String,
    `errors` SimpleAggregateFunction(sum, Int128),
    `users` AggregateFunction(uniqExact, UInt64),
    `users_approx` AggregateFunction(uniqCombined64(14), UInt64),
    `inserted_at` SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now()
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(least(greatest(day, toDate32('1999-12-31')), toDate32('2100-01-01')))
ORDER BY (tenant, day, app_version)
TTL inserted_at + toIntervalDay(730)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE VIEW errors_by_version_by_minute
AS SELECT d.tenant AS tenant, d.window_start AS window_start, d.app_version AS app_version, accurateCast(sum(toInt128(d.errors)), 'Int64') AS errors, toInt64(uniqExactMerge(d.users)) AS users FROM errors_by_version_by_minute_data AS d GROUP BY tenant, window_start, app_version HAVING sum(toInt128(d.errors)) != 0 OR uniqExactMerge(d.users) != 0
COMMENT 'tidemill tables, version 3';

CREATE VIEW errors_by_version_by_day
AS SELECT d.tenant AS tenant, d.day AS day, d.app_version AS app_version, accurateCast(sum(toInt128(d.errors)), 'Int64') AS errors, toInt64(uniqExactMerge(d.users)) AS users, toInt64(uniqCombined64Merge(14)(d.users_approx)) AS users_approx FROM errors_by_version_by_day_data AS d GROUP BY tenant, day, app_version HAVING sum(toInt128(d.errors)) != 0 OR uniqExactMerge(d.users) != 0
COMMENT 'tidemill tables, version 3';

CREATE TABLE revenue_by_minute_data
(
    `tenant` String,
    `window_start` DateTime64(3, 'UTC'),
    `currency` String,
    `orders` SimpleAggregateFunction(sum, Int128),
    `amount_cents` SimpleAggregateFunction(sum, Int128),
    `inserted_at` SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now()
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(least(greatest(window_start, toDateTime64('1999-12-31 00:00:00', 3, 'UTC')), toDateTime64('2100-01-01 00:00:00', 3, 'UTC')))
ORDER BY (tenant, window_start, currency)
TTL inserted_at + toIntervalDay(730)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE TABLE revenue_by_day_data
(
    `tenant` String,
    `day` Date32,
    `currency` String,
    `orders` SimpleAggregateFunction(sum, Int128),
    `amount_cents` SimpleAggregateFunction(sum, Int128),
    `inserted_at` SimpleAggregateFunction(max, DateTime('UTC')) DEFAULT now()
)
ENGINE = AggregatingMergeTree
PARTITION BY toYYYYMM(least(greatest(day, toDate32('1999-12-31')), toDate32('2100-01-01')))
ORDER BY (tenant, day, currency)
TTL inserted_at + toIntervalDay(730)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE VIEW revenue_by_minute
AS SELECT d.tenant AS tenant, d.window_start AS window_start, d.currency AS currency, accurateCast(sum(toInt128(d.orders)), 'Int64') AS orders, accurateCast(sum(toInt128(d.amount_cents)), 'Int64') AS amount_cents FROM revenue_by_minute_data AS d GROUP BY tenant, window_start, currency HAVING sum(toInt128(d.orders)) != 0 OR sum(toInt128(d.amount_cents)) != 0
COMMENT 'tidemill tables, version 3';

CREATE VIEW revenue_by_day
AS SELECT d.tenant AS tenant, d.day AS day, d.currency AS currency, accurateCast(sum(toInt128(d.orders)), 'Int64') AS orders, accurateCast(sum(toInt128(d.amount_cents)), 'Int64') AS amount_cents FROM revenue_by_day_data AS d GROUP BY tenant, day, currency HAVING sum(toInt128(d.orders)) != 0 OR sum(toInt128(d.amount_cents)) != 0
COMMENT 'tidemill tables, version 3';

CREATE TABLE sessions_data
(
    `tenant` String,
    `user_id` String,
    `first_event` DateTime64(3, 'UTC'),
    `last_event` DateTime64(3, 'UTC'),
    `event_count` Int64,
    `sign` Int64
)
ENGINE = SummingMergeTree(sign)
PARTITION BY cityHash64(tenant, user_id) % 16
ORDER BY (tenant, user_id, first_event, last_event, event_count)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE VIEW sessions
AS SELECT tenant, user_id, first_event, last_event, event_count FROM sessions_data AS d GROUP BY tenant, user_id, first_event, last_event, event_count HAVING sum(d.sign) > 0
COMMENT 'tidemill tables, version 3';

CREATE TABLE raw_events_data
(
    `tenant` String,
    `event_id` String,
    `event_type` String,
    `user_id` String,
    `session_id` Nullable(String),
    `timestamp` DateTime64(3, 'UTC'),
    `server_time` Nullable(DateTime64(3, 'UTC')),
    `app_version` Nullable(String),
    `os` Nullable(String),
    `screen_resolution` Nullable(String),
    `locale` Nullable(String),
    `country` Nullable(String),
    `city` Nullable(String),
    `page` Nullable(String),
    `properties` Nullable(String),
    `extra` Nullable(String),
    `inserted_at` DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(least(greatest(timestamp, toDateTime64('1999-12-31 00:00:00', 3, 'UTC')), toDateTime64('2100-01-01 00:00:00', 3, 'UTC')))
ORDER BY (tenant, event_type, timestamp, event_id)
TTL inserted_at + toIntervalDay(90)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE VIEW raw_events
AS SELECT tenant, event_id, event_type, user_id, session_id, timestamp, server_time, app_version, os, screen_resolution, locale, country, city, page, properties, extra FROM raw_events_data
COMMENT 'tidemill tables, version 3';

CREATE TABLE unverified_events_data
(
    `tenant` String,
    `event_id` String,
    `event_type` String,
    `user_id` String,
    `session_id` Nullable(String),
    `timestamp` DateTime64(3, 'UTC'),
    `server_time` Nullable(DateTime64(3, 'UTC')),
    `app_version` Nullable(String),
    `os` Nullable(String),
    `screen_resolution` Nullable(String),
    `locale` Nullable(String),
    `country` Nullable(String),
    `city` Nullable(String),
    `page` Nullable(String),
    `properties` Nullable(String),
    `extra` Nullable(String),
    `inserted_at` DateTime('UTC') DEFAULT now()
)
ENGINE = MergeTree
PARTITION BY toYYYYMMDD(least(greatest(timestamp, toDateTime64('1999-12-31 00:00:00', 3, 'UTC')), toDateTime64('2100-01-01 00:00:00', 3, 'UTC')))
ORDER BY (tenant, event_type, timestamp, event_id)
TTL inserted_at + toIntervalDay(90)
SETTINGS ttl_only_drop_parts = 1, non_replicated_deduplication_window = 10000
COMMENT 'tidemill tables, version 3';

CREATE VIEW unverified_events
AS SELECT tenant, event_id, event_type, user_id, session_id, timestamp, server_time, app_version, os, screen_resolution, locale, country, city, page, properties, extra FROM unverified_events_data
COMMENT 'tidemill tables, version 3';

