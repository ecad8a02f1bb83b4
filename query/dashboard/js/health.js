// The strip that says how the pipeline is: a word, a shape and a colour, and the figures behind them.
import { get, now } from "./api.js";
import { MINUTE, SECOND, ago, compact, duration, moment } from "./format.js";
import { node, setText } from "./tile.js";

const EVERY = 2 * SECOND;
// The watermark itself trails by the two minutes that events may arrive out of order.
const LAG_HIGH = 5 * MINUTE;
const LAG_VERY_HIGH = 30 * MINUTE;
const CHECKPOINT_OLD = 2 * MINUTE;
const CHECKPOINT_VERY_OLD = 15 * MINUTE;

const RANK = { good: 0, unknown: 1, warn: 2, bad: 3 };

function graded(value, high, veryHigh) {
  if (value === null) {
    return "unknown";
  }
  return value >= veryHigh ? "bad" : value >= high ? "warn" : "good";
}

/** Records known to wait in all partitions, in words; nothing where that is not known of each. */
function waiting(partitions) {
  const lags = (partitions ?? []).map((partition) => partition.lag_records);
  const known = lags.length > 0 && lags.every(Number.isFinite);
  return known ? ` · ${compact(lags.reduce((sum, lag) => sum + lag, 0))} waiting` : "";
}

/** What the strip shows for an answer of `/health`. Pure, so that every case can be listed in a test. */
export function judge(answer, clock) {
  const status = answer?.status ?? null;
  if (!answer?.reachable || status === null) {
    const verdict = answer?.reachable === false ? "Pipeline not reachable" : "Pipeline unknown";
    const why = answer?.reason ? `${answer.reason[0].toUpperCase()}${answer.reason.slice(1)}.` : "";
    return { tone: "unknown", verdict, state: "unknown", watermark: "–", lag: "–", checkpoint: "–", rate: "–", why };
  }
  const running = status.state === "running";
  const lag = Number.isFinite(status.lag_seconds) ? status.lag_seconds * SECOND : null;
  const age = Number.isFinite(status.checkpoint?.age_seconds) ? status.checkpoint.age_seconds * SECOND : null;
  const tones = {
    state: running ? "good" : status.state === "starting" ? "warn" : "bad",
    lag: running ? graded(lag, LAG_HIGH, LAG_VERY_HIGH) : "unknown",
    checkpoint: running ? graded(age, CHECKPOINT_OLD, CHECKPOINT_VERY_OLD) : "unknown",
  };
  const tone = Object.values(tones).reduce((worst, each) => (RANK[each] > RANK[worst] ? each : worst), "good");
  const rate = status.rates?.events_per_second;
  const watermark = status.watermark ? Date.parse(status.watermark) : null;
  return {
    tone,
    tones,
    verdict: verdictOf(tones, status.state),
    state: `${status.state ?? "unknown"}${status.workers ? ` · ${status.workers * (status.processes ?? 1)} workers` : ""}`,
    watermark: watermark === null ? "none yet" : moment(watermark, clock),
    lag: `${lag === null ? "unknown" : duration(lag)}${{ warn: " · high", bad: " · very high" }[tones.lag] ?? ""}${waiting(status.partitions)}`,
    checkpoint: age === null ? "none yet" : `${ago(age)}${{ warn: " · old", bad: " · very old" }[tones.checkpoint] ?? ""}`,
    rate: Number.isFinite(rate) ? `${compact(rate)} events/s` : "–",
    why: tone === "good" ? "" : (status.why_open ?? []).map((reason) => reason.sentence).filter(Boolean).slice(0, 2).join(" "),
  };
}

function verdictOf(tones, state) {
  if (tones.state !== "good") {
    return tones.state === "warn" ? "Starting" : `Pipeline ${state ?? "stopped"}`;
  }
  if (tones.lag === "bad" || tones.lag === "warn") {
    return tones.lag === "bad" ? "Far behind" : "Behind";
  }
  if (tones.checkpoint === "bad" || tones.checkpoint === "warn") {
    return "Checkpoints are late";
  }
  return "Healthy";
}

function show({ tone, tones = {}, verdict, why, ...figures }) {
  node("health").dataset.tone = tone;
  setText("health-verdict", verdict);
  for (const [name, text] of Object.entries(figures)) {
    setText(`health-${name}`, text);
    node(`health-${name}`).dataset.tone = tones[name] ?? "";
  }
  setText("health-why", why);
  node("health-why").hidden = why === "";
}

/** Asks every two seconds and shows the answer; where the API itself is silent, the banner says so, not this. */
export function watchHealth() {
  async function look() {
    if (!document.hidden) {
      const answer = await get("health").catch(() => null);
      show(judge(answer?.data ?? answer, now()));
    }
    setTimeout(look, EVERY);
  }
  look();
}
