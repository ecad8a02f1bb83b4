// The dashboard's pure rules: what is written, which range is shown, how health is judged. Run: node --test rules.test.mjs
// (20.19 or newer: the files are modules for browsers, without a package.json that would tell Node so).
import assert from "node:assert/strict";
import { test } from "node:test";

const load = (name) => import(new URL(`../../query/dashboard/js/${name}.js`, import.meta.url));
const format = await load("format");
const { extentOf, resolve, stepFor } = await load("ranges");
const { judge } = await load("health");
const { exactness, statusLine, together } = await load("tile");

const { MINUTE, HOUR, DAY } = format;
const NOON = Date.parse("2026-11-23T12:00:00Z");

test("money is exact to the cent, also beyond what a float can hold", () => {
  for (const [cents, text] of [
    [0, "0.00"], [5, "0.05"], [-5, "−0.05"], [99, "0.99"], [123456, "1,234.56"], [-100, "−1.00"],
    [9223372036854775807n, "92,233,720,368,547,758.07"], [-9223372036854775808n, "−92,233,720,368,547,758.08"],
  ]) {
    assert.equal(format.money(cents), text);
  }
});

test("times are UTC and carry their date unless it is today", () => {
  assert.equal(format.moment(NOON - 61_000, NOON), "11:58:59");
  assert.equal(format.moment(NOON - DAY, NOON), "2026-11-22 12:00:00");
  assert.equal(format.bucket(NOON, MINUTE), "Nov 23, 12:00");
  assert.equal(format.bucket(NOON, DAY), "2026-11-23");
});

test("durations name their largest units", () => {
  for (const [span, text, past] of [
    [-5, "0 s", "0 s ago"], [59_999, "59 s", "59 s ago"], [60_000, "1 min", "1 min ago"], [125_000, "2 min 5 s", "2 min ago"],
    [3 * HOUR + 12 * MINUTE, "3 h 12 min", "3 h ago"], [2 * DAY + 4 * HOUR, "2 d 4 h", "2 d ago"],
  ]) {
    assert.equal(format.duration(span), text);
    assert.equal(format.ago(span), past);
  }
});

test("session lengths are named by their ends", () => {
  const ends = [0, 1, 10, 60, 300, 900, 1800, 3600, null];
  const names = ends.slice(1).map((to, index) => format.lengthLabel(ends[index], to));
  assert.deepEqual(names, ["0 s", "1–10 s", "10–60 s", "1–5 min", "5–15 min", "15–30 min", "30–60 min", "over 60 min"]);
});

test("live data is shown back from now, old data back from its end", () => {
  const live = { first: NOON - 3 * HOUR, end: NOON - 30_000, recent: NOON - 30_000 };
  const stray = { ...live, end: NOON + 2 * DAY };
  const old = { first: NOON - 40 * DAY, end: NOON - 30 * DAY, recent: NOON - 30 * DAY };
  const ahead = { first: NOON + 20 * DAY, end: NOON + 30 * DAY, recent: NOON + 30 * DAY };
  for (const [choice, extent, from, to, step, isLive] of [
    ["1h", live, NOON - HOUR, NOON, "minute", true],
    ["auto", live, NOON - 3 * HOUR, NOON, "minute", true],
    ["all", live, NOON - 3 * HOUR, NOON, "minute", true],
    ["1h", old, NOON - 30 * DAY - HOUR, NOON - 30 * DAY, "minute", false],
    ["auto", old, NOON - 31 * DAY, NOON - 30 * DAY, "hour", false],
    ["all", old, NOON - 40 * DAY, NOON - 30 * DAY, "hour", false],
    ["1h", stray, NOON - HOUR, NOON, "minute", true],
    ["all", stray, NOON - 3 * HOUR, NOON + 2 * DAY, "hour", true],
    ["1h", ahead, NOON + 30 * DAY - HOUR, NOON + 30 * DAY, "minute", false],
    ["auto", null, NOON - 15 * MINUTE, NOON, "minute", true],
    ["all", null, NOON - 15 * MINUTE, NOON, "minute", true],
  ]) {
    const range = resolve({ id: choice }, extent, NOON);
    assert.deepEqual([range.from, range.to, range.step.name, range.live], [from, to, step, isLive], choice);
  }
});

test("a range is whole buckets, never more than an answer may have", () => {
  const custom = resolve({ id: "custom", from: NOON + 1, to: NOON + 90_000 }, null, NOON);
  assert.deepEqual([custom.from, custom.to, custom.live], [NOON, NOON + 2 * MINUTE, false]);
  for (const span of [1, 15 * MINUTE, 6 * HOUR, DAY, 7 * DAY, 400 * DAY, 60 * 366 * DAY]) {
    const { from, to, step } = resolve({ id: "all" }, { first: NOON - span, end: NOON, recent: NOON }, NOON);
    assert.ok((to - from) / step.length <= 10_000, `${span}`);
    assert.ok(Number.isInteger(from / step.length));
    assert.equal(step.length, stepFor(to - from).length);
  }
});

test("one stray clock does not move the page into a far year", () => {
  const far = Date.parse("9999-01-01T00:00:00Z");
  const through = NOON - 2 * MINUTE;
  for (const [last, completeThrough, end, recent] of [
    [NOON - MINUTE, through, NOON, NOON],
    [NOON - DAY, null, NOON - DAY + MINUTE, NOON - DAY + MINUTE],
    [far, through, far + MINUTE, NOON + 3 * MINUTE],
    [far, NOON - 30 * DAY, far + MINUTE, NOON - 30 * DAY + 5 * MINUTE],
    [NOON + MINUTE, NOON, NOON + 2 * MINUTE, NOON + 2 * MINUTE],
  ]) {
    assert.deepEqual(extentOf(NOON - 40 * DAY, last, completeThrough, NOON), { first: NOON - 40 * DAY, end, recent });
  }
  assert.equal(extentOf(null, null, null, NOON), null);
  const { from, to, step } = resolve({ id: "all" }, extentOf(NOON - HOUR, far, through, NOON), NOON);
  assert.ok(from <= NOON - HOUR && to > NOON && (to - from) / step.length <= 10_000);
  const old = resolve({ id: "all" }, extentOf(0, far, through, NOON), NOON);
  assert.ok(old.from <= NOON - HOUR && old.to >= NOON && (old.to - old.from) / old.step.length <= 10_000, "a clock of 1970");
});

test("a tile is exact only if every answer in it is, and as old as the oldest", () => {
  const answer = { exact: true, pending: 0, completeThrough: NOON, updatedAt: NOON };
  const one = together([answer, { ...answer, exact: false, pending: 1_200, completeThrough: NOON - MINUTE, updatedAt: NOON - 2_000 }]);
  assert.equal(exactness(one), "so far · 1,200 pending");
  assert.equal(statusLine(one, NOON), "complete through 11:59:00 · updated 2 s ago");
  assert.equal(exactness(together([answer])), "exact");
  assert.equal(exactness({ exact: false, pending: 0 }), "so far");
  assert.equal(statusLine(together([{ ...answer, completeThrough: null, updatedAt: null }]), NOON), "nothing complete yet");
  const drained = { completeThrough: NOON, closed: true, updatedAt: NOON };
  assert.equal(statusLine(drained, NOON), "complete, closed for good · updated 0 s ago");
});

test("health is told by the worst of its figures, in words", () => {
  const status = { state: "running", workers: 2, processes: 2, lag_seconds: 130, checkpoint: { age_seconds: 5 }, watermark: "2026-11-23T11:57:50Z" };
  const late = { ...status, why_open: [{ sentence: "Partition 3 holds the watermark since 11:40." }] };
  for (const [answer, tone, verdict] of [
    [null, "unknown", "Pipeline unknown"],
    [{ reachable: false, status: null, reason: "no status at x" }, "unknown", "Pipeline not reachable"],
    [{ reachable: true, status }, "good", "Healthy"],
    [{ reachable: true, status: { ...status, lag_seconds: 301 } }, "warn", "Behind"],
    [{ reachable: true, status: { ...late, lag_seconds: 7_200 } }, "bad", "Far behind"],
    [{ reachable: true, status: { ...status, checkpoint: { age_seconds: 200 } } }, "warn", "Checkpoints are late"],
    [{ reachable: true, status: { ...status, state: "starting" } }, "warn", "Starting"],
    [{ reachable: true, status: { ...status, state: "stopping" } }, "bad", "Pipeline stopping"],
  ]) {
    const judged = judge(answer, NOON);
    assert.deepEqual([judged.tone, judged.verdict], [tone, verdict]);
  }
  assert.equal(judge({ reachable: true, status: { ...late, lag_seconds: 7_200 } }, NOON).why, late.why_open[0].sentence);
  assert.equal(judge({ reachable: false, status: null, reason: "no status at x" }, NOON).why, "No status at x.");
  assert.equal(judge({ reachable: true, status }, NOON).state, "running · 4 workers");
  const lag = (...lags) => judge({ reachable: true, status: { ...status, partitions: lags.map((lag_records) => ({ lag_records })) } }, NOON).lag;
  assert.equal(lag(), lag(null, 3), "a lag that is not known of every partition is none");
  assert.equal(lag(0, 0), `${lag()} · 0 waiting`);
  assert.equal(lag(1_000, 200), `${lag()} · 1.2K waiting`);
  assert.equal(judge({ reachable: true, status: { ...status, lag_seconds: null, checkpoint: null } }, NOON).checkpoint, "none yet");
});
