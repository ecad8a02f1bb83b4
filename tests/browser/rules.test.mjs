// The dashboard's pure rules: what is written, which range is shown, how health is judged. Run: node --test rules.test.mjs
// (20.19 or newer: the files are modules for browsers, without a package.json that would tell Node so).
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import vm from "node:vm";

const load = (name) => import(new URL(`../../query/dashboard/js/${name}.js`, import.meta.url));
const format = await load("format");
const { extentOf, resolve, stepFor } = await load("ranges");
const { judge } = await load("health");
const { exactness, statusLine, together } = await load("tile");

const { MINUTE, HOUR, DAY } = format;
const NOON = Date.parse("2026-11-23T12:00:00Z");

test("money is exact in the smallest unit of its currency, also beyond what a float can hold", () => {
  for (const [amount, text] of [
    [0, "0.00"], [5, "0.05"], [-5, "−0.05"], [99, "0.99"], [123456, "1,234.56"], [-100, "−1.00"],
    [9223372036854775807n, "92,233,720,368,547,758.07"], [-9223372036854775808n, "−92,233,720,368,547,758.08"],
  ]) {
    assert.equal(format.money(amount, "EUR"), text);
  }
});

test("a currency has the decimals of ISO 4217, and two where it is not known", () => {
  for (const [currency, text] of [
    ["JPY", "123,456"], ["jpy", "123,456"], ["KRW", "123,456"], ["KWD", "123.456"], ["BHD", "123.456"], ["CLF", "12.3456"],
    ["USD", "1,234.56"], ["HUF", "1,234.56"], ["points", "1,234.56"], ["", "1,234.56"], [undefined, "1,234.56"],
  ]) {
    assert.equal(format.money(123_456, currency), text, currency);
  }
  assert.equal(format.money(-7, "KWD"), "−0.007");
  assert.equal(format.money(0, "JPY"), "0");
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

/** What `/api/v1/range` says of data from `first` to its last minute, complete through `through`. */
const extent = (first, last, through, closed = false) => extentOf(first, last, { completeThrough: through, closed }, NOON);
const shown = (choice, data) => {
  const { from, to, step, live } = resolve({ id: choice }, data, NOON);
  return [from, to, step.name, live];
};

test("ranges count back from now while data arrives, else from what is complete", () => {
  const live = extent(NOON - 3 * HOUR, NOON - MINUTE, NOON - 2 * MINUTE);
  const quiet = extent(NOON - 3 * HOUR, NOON - HOUR, NOON - 2 * MINUTE);
  const lagging = extent(NOON - 3 * HOUR, NOON - 59 * MINUTE, NOON - HOUR);
  const old = extent(NOON - 40 * DAY, NOON - 30 * DAY - MINUTE, NOON - 30 * DAY - 2 * MINUTE);
  const drained = extent(NOON - 40 * DAY, NOON - 30 * DAY - MINUTE, NOON - 30 * DAY, true);
  const unknown = extent(NOON - 40 * DAY, NOON - 30 * DAY, null);
  for (const [name, choice, data, ...expected] of [
    ["live", "1h", live, NOON - HOUR, NOON, "minute", true],
    ["live", "auto", live, NOON - 3 * HOUR, NOON, "minute", true],
    ["live", "all", live, NOON - 3 * HOUR, NOON, "minute", true],
    ["a quiet hour is shown as one", "15m", quiet, NOON - 15 * MINUTE, NOON, "minute", true],
    ["behind the events", "15m", lagging, NOON - 73 * MINUTE, NOON - 58 * MINUTE, "minute", false],
    ["old", "1h", old, NOON - 30 * DAY - HOUR, NOON - 30 * DAY, "minute", false],
    ["old", "auto", old, NOON - 31 * DAY, NOON - 30 * DAY, "hour", false],
    ["old", "all", old, NOON - 40 * DAY, NOON - 30 * DAY, "hour", false],
    ["drained", "1h", drained, NOON - 30 * DAY - HOUR, NOON - 30 * DAY, "minute", false],
    ["drained", "all", drained, NOON - 40 * DAY, NOON - 30 * DAY, "hour", false],
    ["nothing complete", "1h", unknown, NOON - HOUR, NOON, "minute", true],
    ["nothing at all", "auto", null, NOON - 15 * MINUTE, NOON, "minute", true],
    ["nothing at all", "all", null, NOON - 15 * MINUTE, NOON, "minute", true],
  ]) {
    assert.deepEqual(shown(choice, data), expected, `${name}, ${choice}`);
  }
  assert.equal(extent(null, null, null), null);
  const drainedNow = extent(NOON - HOUR, NOON - MINUTE, NOON, true);
  assert.deepEqual(shown("15m", drainedNow), [NOON - 15 * MINUTE, NOON, "minute", false], "what is closed is not live");
});

test("a few stray events move no range", () => {
  const end = NOON - 30 * DAY;
  for (const closed of [false, true]) {
    const through = closed ? end : end - 2 * MINUTE;
    // Eight events of today behind a million of last month: what is complete stays there.
    const today = extent(end - DAY, NOON - HOUR, through, closed);
    const [from, to, , live] = shown("auto", today);
    assert.ok(from <= end - HOUR && from >= end - DAY - HOUR && to >= end && to <= end + HOUR && !live, "where the data is");
    assert.deepEqual(shown("all", today).slice(0, 2), [end - DAY - 12 * HOUR, NOON + 12 * HOUR], "all is all that has happened");
    // One of a year to come.
    for (const far of [Date.parse("2030-01-01T00:00:00Z"), Date.parse("9999-01-01T00:00:00Z")]) {
      const ahead = extent(end - DAY, far, through, closed);
      assert.deepEqual(shown("auto", ahead), shown("auto", today));
      assert.ok(shown("all", ahead)[1] <= NOON + 12 * HOUR);
    }
  }
  const live = (last) => extent(NOON - HOUR, last, NOON - 2 * MINUTE);
  for (const choice of ["auto", "15m", "24h", "all"]) {
    assert.deepEqual(shown(choice, live(NOON + 2 * DAY)), shown(choice, live(NOON - MINUTE)), choice);
  }
  const ancient = resolve({ id: "all" }, extent(0, NOON - MINUTE, NOON - 2 * MINUTE), NOON);
  assert.ok(ancient.to >= NOON && (ancient.to - ancient.from) / ancient.step.length <= 10_000, "a clock of 1970");
});

test("a range is whole buckets, never more than an answer may have", () => {
  const custom = resolve({ id: "custom", from: NOON + 1, to: NOON + 90_000 }, null, NOON);
  assert.deepEqual([custom.from, custom.to, custom.live], [NOON, NOON + 2 * MINUTE, false]);
  for (const span of [1, 15 * MINUTE, 6 * HOUR, DAY, 7 * DAY, 400 * DAY, 60 * 366 * DAY]) {
    const { from, to, step } = resolve({ id: "all" }, extent(NOON - span, NOON - MINUTE, NOON), NOON);
    assert.ok((to - from) / step.length <= 10_000, `${span}`);
    assert.ok(Number.isInteger(from / step.length));
    assert.equal(step.length, stepFor(to - from).length);
  }
});

test("a tile is exact only if every answer in it is, and as old as the oldest", () => {
  const answer = { exact: true, pending: 0, completeThrough: NOON, updatedAt: NOON };
  const one = together([answer, { ...answer, exact: false, pending: 1_200, completeThrough: NOON - MINUTE, updatedAt: NOON - 2_000 }]);
  assert.equal(exactness(one), "so far · 1,200 pending");
  assert.equal(statusLine(one, NOON), "complete through 11:59:00 · updated 2 s ago");
  assert.equal(exactness(together([answer])), "exact");
  assert.equal(exactness({ exact: false, pending: 0 }), "so far");
  assert.equal(statusLine(together([{ ...answer, completeThrough: null, updatedAt: null }]), NOON), "nothing complete yet");
});

test("a tile that is not exact never says that it is closed for good", () => {
  const drained = { completeThrough: NOON - HOUR, closed: true, exact: true, pending: 0, updatedAt: NOON };
  assert.equal(exactness(drained), "exact");
  assert.equal(statusLine(drained, NOON), "complete, closed for good · updated 0 s ago");
  for (const [part, said] of [
    [{ exact: false }, "so far"],
    [{ exact: false, pending: 8 }, "not exact · 8 pending"],
    [{ exact: false, closed: false, pending: 8 }, "so far · 8 pending"],
  ]) {
    const answer = { ...drained, ...part };
    assert.equal(exactness(answer), said);
    assert.equal(statusLine(answer, NOON), "complete through 11:00:00 · updated 0 s ago");
    assert.equal(statusLine(together([drained, answer]), NOON), "complete through 11:00:00 · updated 0 s ago", "one answer of several");
  }
  assert.equal(statusLine({ ...drained, completeThrough: null }, NOON), "complete, closed for good · updated 0 s ago");
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

test("the operators' page says of late events what became of them", () => {
  // Its script is no module: it runs here over a page that holds nothing and asks nobody.
  const nowhere = { fetch: () => Promise.reject(new Error("nobody")), setTimeout: () => 0, AbortSignal, Intl };
  const page = vm.createContext({ ...nowhere, document: { getElementById: () => ({}) } });
  vm.runInContext(readFileSync(new URL("../../pipelines/src/ops/page/ops.js", import.meta.url), "utf8"), page);
  const operators = [
    { id: "views", kind: "window tumbling 60000 ms, late Correct, aggregate count, distinct" },
    { id: "errors", kind: "window tumbling 60000 ms, late Correct, aggregate count" },
    { id: "finals", kind: "window tumbling 60000 ms, late Drop, aggregate count" },
    { id: "pairs", kind: "join window 60000 ms, late Side, correctable 0 ms" },
  ];
  const note = (all) => page.lateNote({ operators, counts: { all } });
  assert.equal(note({ "views/late": 3, "errors/late": 4, "views/accepted": 9 }), "counted all the same");
  assert.equal(note({ "finals/late": 3 }), "left out");
  assert.equal(note({ "views/late": 1_000, "finals/late": 2, "pairs/late": 1 }), "1,000 counted all the same, 2 left out, 1 in a stream of their own");
  assert.equal(note({ "gone/late": 2, "views/late": 1 }), "2 after their window, 1 counted all the same");
  assert.equal(note({ "views/late": 0 }), "after their window was complete");
});
