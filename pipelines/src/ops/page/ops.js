// The operators' page: asks /api/status once a second and draws what it says. Names are text, never markup.
"use strict";

const EVERY = 1000;
const byId = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; strings become text. */
function make(name, attributes = {}, ...children) {
  const element = name.startsWith("svg:") ? document.createElementNS(SVG, name.slice(4)) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

function fill(id, children) {
  byId(id).replaceChildren(...children);
}

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const short = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });
const count = (n) => (n === null || n === undefined ? "unknown" : whole.format(n));
const rate = (n) => (n === null ? "" : `${short.format(n)}/s`);

function bytes(n) {
  let unit = 0;
  while (n >= 1024 && unit < 4) { n /= 1024; unit += 1; }
  return `${unit ? n.toFixed(1) : n} ${["B", "KiB", "MiB", "GiB", "TiB"][unit]}`;
}

function span(seconds) {
  if (seconds === null || seconds === undefined) return "unknown";
  const s = Math.max(0, seconds);
  if (s < 120) return `${s < 10 ? s.toFixed(1) : Math.round(s)} s`;
  if (s < 7200) return `${Math.round(s / 60)} min`;
  if (s < 172800) return `${Math.round(s / 3600)} h`;
  return `${whole.format(s / 86400)} days`;
}

const ago = (time, now) => (time ? `${span((now - Date.parse(time)) / 1000)} ago` : "unknown");
const clock = (time) => (time ? time.replace("T", " ").replace(/\.\d+Z$/, "Z") : "unknown");

function why(status, now) {
  const items = status.why_open.map((reason) => make("li", { class: reason.holds ? "holds" : "told" },
    reason.sentence, make("time", { datetime: reason.since }, `since ${clock(reason.since)}, ${ago(reason.since, now)}`)));
  if (!status.why_open.some((reason) => reason.holds)) {
    items.unshift(make("li", { class: "none" },
      "Nothing is held back: windows that end by the watermark are complete, later ones wait for time to pass."));
  }
  fill("why", items);
}

/** What becomes of the late records of an operator, as its line in the plan says; nothing of one that the plan has no more. */
function fate(status, id) {
  const operator = status.operators.find((each) => each.id === id);
  const policy = /\blate (Correct|Side|Drop)\b/.exec(operator ? operator.kind : "");
  return policy ? { Correct: "counted all the same", Side: "in a stream of their own", Drop: "left out" }[policy[1]] : "";
}

/** All late records by what became of them. */
function lateNote(status) {
  const sums = new Map();
  for (const [name, n] of Object.entries(status.counts.all)) {
    const [operator, counter] = name.split("/");
    const became = fate(status, operator) || "after their window";
    if (counter === "late" && n > 0) sums.set(became, (sums.get(became) || 0) + n);
  }
  if (sums.size === 0) return "after their window was complete";
  return sums.size === 1 ? [...sums.keys()][0] : [...sums].map(([became, n]) => `${count(n)} ${became}`).join(", ");
}

function tiles(status) {
  const { epoch, checkpoint, epoch_latency_ms: latency, counts } = status;
  const behind = epoch.read - epoch.committed;
  const lags = status.partitions.map((p) => p.lag_records);
  const lag = lags.length && lags.every((n) => n !== null) ? lags.reduce((sum, n) => sum + n, 0) : null;
  const all = [
    ["Complete through", clock(status.watermark), status.closed ? "closed: nothing follows"
      : status.lag_seconds === null ? "" : `${span(status.lag_seconds)} behind the clock`],
    ["Events", rate(status.rates.events_per_second), `${count(counts.events)} in all`],
    ["Input", `${bytes(status.rates.bytes_per_second)}/s`, `${bytes(status.committed.bytes)} in this run`],
    ["Epoch latency", latency.p50 === null ? "unknown" : `${latency.p50} ms`, latency.p99 === null ? "" : `p99 ${latency.p99} ms`],
    ["Epochs", `${epoch.committed}`, `read ${epoch.read}, bound ${epoch.bound}${behind > 0 ? `, ${behind} in flight` : ""}`],
    ["In flight", bytes(status.in_flight_bytes), `of ${bytes(status.memory_budget)}`],
    ["Checkpoint", checkpoint.age_seconds === null ? "none yet" : `${span(checkpoint.age_seconds)} ago`,
      checkpoint.epoch === null ? "" : `epoch ${checkpoint.epoch}, ${bytes(checkpoint.bytes)}`],
    ["Waiting", lag === null ? "unknown" : count(lag), "records in all partitions"],
    ["Late", count(counts.late), lateNote(status)],
    ["Duplicates", count(counts.duplicate), counts.conflicting ? `left out, ${count(counts.conflicting)} conflicting` : "left out"],
    ["Malformed", count(counts.malformed), "in the dead letters"],
    ["Quarantined", count(counts.quarantined), "they panic; in the dead letters"],
    ["Lost", count(counts.lost), status.accepted_loss.slice(0, 3).join(", ") || "gone before they were read, as accepted"],
    ["Unverified", count(counts.unverified), "older than the horizon"],
  ];
  fill("tiles", all.map(([name, value, note]) => make("div", {}, make("dt", {}, name),
    make("dd", {}, value, make("small", {}, note || "\u00a0")))));
}

function partitions(status, now) {
  const SHOWN = 200;
  const rank = (p) => (p.finished ? 2 : p.idle ? 1 : 0);
  const sorted = [...status.partitions].sort((a, b) => rank(a) - rank(b)
    || (a.watermark || "").localeCompare(b.watermark || "") || a.name.localeCompare(b.name));
  const rows = sorted.slice(0, SHOWN).map((p) => make("tr", {}, make("td", {}, p.name),
    make("td", {}, p.finished ? "finished" : p.idle ? "idle" : "active"),
    make("td", { class: "n" }, clock(p.watermark)), make("td", { class: "n" }, ago(p.advanced, now)),
    make("td", { class: "n" }, count(p.records)), make("td", { class: "n" }, count(p.offset)),
    make("td", { class: "n" }, count(p.lag_records))));
  fill("partitions", rows.length ? rows : [empty(7, "None is known yet.")]);
  byId("more-partitions").hidden = sorted.length <= SHOWN;
  byId("more-partitions").textContent = `The ${SHOWN} that are furthest behind, of ${sorted.length}.`;
}

const empty = (columns, text) => make("tr", {}, make("td", { class: "empty", colspan: columns }, text));

function tables(status, now) {
  const history = [...status.checkpoint.history].reverse().map((c) => make("tr", {}, make("td", { class: "n" }, `${c.epoch}`),
    make("td", { class: "n" }, ago(c.at, now)), make("td", { class: "n" }, `${c.duration_ms} ms`),
    make("td", { class: "n" }, bytes(c.added_bytes)), make("td", { class: "n" }, bytes(c.bytes))));
  fill("checkpoints", history.length ? history : [empty(5, "This run has stored none yet.")]);
  const counts = Object.entries(status.counts.all).map(([name, n]) => {
    const [operator, counter] = name.split("/");
    return make("tr", {}, make("td", {}, operator), make("td", {}, counter), make("td", { class: "n" }, count(n)));
  });
  fill("counts", counts.length ? counts : [empty(3, "Nothing is committed yet.")]);
}

/** Under each kind, the newest first. */
function samples(status) {
  const malformed = (s) => `${s.partition}, line ${s.line}: ${s.reason}`;
  const aside = (s) => `${s.operator}: event time ${clock(s.event_time)}${s.partition === null ? "" : `, from ${s.partition}`}`;
  const late = (s) => [aside(s), fate(status, s.operator)].filter(Boolean).join(", ");
  const { samples: all } = status;
  const kinds = [
    ["Malformed", all.malformed, malformed],
    ["Late", all.late, late],
    ["Conflicting duplicates", all.conflicting, aside],
    ["Unverified", all.unverified, aside],
  ].filter(([, records]) => records.length);
  fill("samples", kinds.length ? kinds.flatMap(([name, records, about]) => [make("h3", {}, name),
    make("ul", { class: "samples" }, ...[...records].reverse().map((s) => make("li", {}, about(s), make("code", {}, s.payload))))])
    : [make("p", { class: "quiet" }, "None in this run.")]);
}

/** Other processes of the run; nothing where there are none. */
function processes(status) {
  const rows = status.peers.map((peer) => make("li", {}, `Process ${peer.process}: heard from ${span(peer.heartbeat_age_seconds)} ago`));
  byId("processes").hidden = rows.length === 0;
  fill("processes", rows);
}

/** How deep each operator lies below the sources. */
function depths(operators) {
  const depth = [];
  operators.forEach((operator, n) => { depth[n] = Math.max(-1, ...operator.inputs.map((input) => depth[input])) + 1; });
  return depth;
}

/** Places for the boxes: columns by depth where there is room, an indented list where there is not. */
function layout(operators, width) {
  const depth = depths(operators);
  const children = operators.map((_, n) => operators.flatMap((o, m) => (o.inputs[0] === n ? [m] : [])));
  const order = [];
  const visit = (n) => { order.push(n); children[n].forEach(visit); };
  operators.forEach((operator, n) => { if (!operator.inputs.length) visit(n); });
  const columns = Math.max(0, ...depth) + 1;
  const gap = 74;
  const boxWidth = Math.min(280, (width - gap * (columns - 1)) / columns);
  const places = [];
  if (boxWidth >= 170) {
    // A box stands beside the middle of what reads it; those that nobody reads take the next free line.
    let line = 0;
    const place = (n) => {
      const lines = children[n].map(place);
      const at = lines.length ? (lines[0] + lines[lines.length - 1]) / 2 : line++;
      places[n] = { x: depth[n] * (boxWidth + gap) + 1, y: at * 62 + 1, w: boxWidth };
      return at;
    };
    operators.forEach((operator, n) => { if (!operator.inputs.length) place(n); });
    return { places, across: true, height: Math.max(1, line) * 62 };
  }
  order.forEach((n, line) => {
    const x = depth[n] * 22 + 1;
    places[n] = { x, y: line * 62 + 1, w: Math.max(150, width - x - 2) };
  });
  return { places, across: false, height: order.length * 62 };
}

function edge(from, to, across) {
  if (!across) return `M ${from.x + 10} ${from.y + 50} V ${to.y + 25} H ${to.x}`;
  const [x1, y1, x2, y2] = [from.x + from.w, from.y + 25, to.x, to.y + 25];
  const middle = (x1 + x2) / 2;
  return `M ${x1} ${y1} C ${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`;
}

function cut(text, width, size) {
  const fits = Math.floor(width / size);
  return text.length <= fits ? text : `${text.slice(0, fits - 1)}…`;
}

function plan(status, before) {
  const { operators } = status;
  const seconds = before ? (status.read - before.read) / 1000 : 0;
  const perSecond = (n, field) => (seconds > 0 && before.operators.length === operators.length
    ? Math.max(0, operators[n][field] - before.operators[n][field]) / seconds : null);
  const held = new Set(status.why_open.filter((reason) => reason.holds).map((reason) => reason.name));
  const width = Math.max(300, byId("plan").clientWidth);
  const { places, across, height } = layout(operators, width);
  const drawing = make("svg:svg", { width, height, role: "img", "aria-label": `plan of ${operators.length} operators` });
  operators.forEach((operator, n) => operator.inputs.forEach((input) => {
    drawing.append(make("svg:path", { class: "edge", d: edge(places[input], places[n], across) }));
  }));
  operators.forEach((operator, n) => {
    const { x, y, w } = places[n];
    const working = operator.at.some((at) => at.working) || (operator.sink && operator.sink.writing);
    const kind = operator.inputs.length === 0 ? "source" : operator.sink ? "sink" : "";
    const group = make("svg:g", { class: `${kind} ${working ? "working" : ""} ${held.has(operator.id) ? "held" : ""}` });
    const [into, out] = [perSecond(n, "records_in"), perSecond(n, "records_out")];
    const facts = [operator.state_entries ? `${short.format(operator.state_entries)} kept, ${bytes(operator.state_bytes)}` : "",
      operator.sink && !operator.sink.opened ? "not open yet" : "",
      operator.closed === null ? "" : `epoch ${operator.closed}`].filter(Boolean).join(" · ");
    const title = `${operator.id}: ${operator.kind}\nin ${count(operator.records_in)}, out ${count(operator.records_out)}\n`
      + `state ${bytes(operator.state_bytes)} here, ${bytes(operator.stored_bytes)} in the last checkpoint`;
    group.append(make("svg:title", {}, title),
      make("svg:rect", { class: "box", x, y, width: w, height: 50, rx: 6 }),
      make("svg:text", { x: x + 9, y: y + 16 }, cut(operator.id, w - 16, 6.7)),
      make("svg:text", { class: "small", x: x + 9, y: y + 31 }, cut(operator.kind, w - 16, 5.7)),
      make("svg:text", { class: "small", x: x + 9, y: y + 45 }, cut(facts, w - 16, 5.7)));
    const shown = rate(operator.inputs.length ? into : out);
    if (shown && across && operator.inputs.length) {
      group.append(make("svg:text", { class: "rate", x: x - 5, y: y + 21, "text-anchor": "end" }, shown));
    } else if (shown) {
      group.append(make("svg:text", { class: "rate", x: x + w - 7, y: y + 45, "text-anchor": "end" }, shown));
    }
    drawing.append(group);
  });
  fill("plan", operators.length ? [drawing] : ["The plan is not known yet."]);
}

function facts(status, now) {
  document.title = `${status.pipeline} · ${status.state}`;
  byId("pipeline").textContent = status.pipeline;
  byId("state").textContent = status.state;
  byId("state").className = `pill ${status.state}`;
  const processes = status.processes === 1 ? "1 process" : `${status.processes} processes`;
  const workers = status.workers === 1 ? "1 worker" : `${status.workers} workers`;
  byId("facts").textContent = `run ${status.run}, begun ${ago(status.started, now)} · ${workers} here, ${processes}`;
}

/** Snapshots of the last five seconds: rates are taken from the oldest. */
let past = [];
let answered = null;

async function refresh() {
  try {
    const answer = await fetch("/api/status", { cache: "no-store", signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    const status = await answer.json();
    const now = Date.now();
    status.read = now;
    answered = now;
    if (past.length && past[past.length - 1].run !== status.run) past = [];
    facts(status, now);
    why(status, now);
    tiles(status);
    plan(status, past[0] || null);
    partitions(status, now);
    tables(status, now);
    samples(status);
    processes(status);
    past = [...past.slice(-4), status];
    byId("stale").hidden = true;
  } catch (problem) {
    const since = answered ? `for ${span((Date.now() - answered) / 1000)}; what is shown is from then` : "yet";
    byId("stale").textContent = `The process has not answered ${since} (${problem.message}).`;
    byId("stale").hidden = false;
  }
  setTimeout(refresh, EVERY);
}

refresh();
