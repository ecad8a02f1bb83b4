// Which time the page shows. Pure: from the reader's choice, where data is, and now, to a range and its step.
import { DAY, HOUR, MINUTE } from "./format.js";

/** The choices of the range picker. */
export const CHOICES = [
  { id: "auto", label: "Auto", title: "Where the data is, at most its last 24 hours" },
  { id: "15m", label: "15 min", span: 15 * MINUTE },
  { id: "1h", label: "1 h", span: HOUR },
  { id: "6h", label: "6 h", span: 6 * HOUR },
  { id: "24h", label: "24 h", span: DAY },
  { id: "7d", label: "7 d", span: 7 * DAY },
  { id: "all", label: "All", title: "From the first to the last event" },
];

const LONGEST = 9_999 * DAY; // The API draws at most 10,000 buckets.
const STILL_LIVE = 15 * MINUTE;

/** The step that keeps a chart between some dozens and some hundreds of buckets. */
export function stepFor(span) {
  if (span <= 6 * HOUR) {
    return { name: "minute", length: MINUTE };
  }
  return span <= 14 * DAY ? { name: "hour", length: HOUR } : { name: "day", length: DAY };
}

/**
 * Where data is, from the first and last minute with data. One stray clock can put an event into a far year; the
 * watermark does not follow such a jump, so beyond now it says where the data really ends.
 */
export function extentOf(first, last, completeThrough, now) {
  if (first === null || last === null) {
    return null;
  }
  const stray = last > now + HOUR && completeThrough !== null && last > completeThrough + HOUR;
  const end = (stray ? completeThrough + HOUR : last) + MINUTE;
  return { first: Math.min(first, end - MINUTE), end };
}

/**
 * The range to show: `{from, to, step, live}`, whole buckets, `to` exclusive. While data arrives a span is counted back
 * from now; when data ended long ago, from its end, so that history shows too.
 */
export function resolve(choice, extent, now) {
  const live = extent === null || Math.abs(now - extent.end) <= STILL_LIVE;
  const end = live ? Math.max(now, extent?.end ?? now) : extent.end;
  if (choice.from !== undefined) {
    return aligned(choice.from, choice.to, false);
  }
  const data = extent === null ? 15 * MINUTE : end - extent.first;
  const known = CHOICES.find((each) => each.id === choice.id);
  if (choice.id === "all") {
    return aligned(end - Math.min(Math.max(data, 15 * MINUTE), LONGEST), end, live);
  }
  return aligned(end - (known?.span ?? Math.min(Math.max(data, 15 * MINUTE), DAY)), end, live);
}

function aligned(from, to, live) {
  const step = stepFor(to - from);
  return {
    from: Math.floor(from / step.length) * step.length,
    to: Math.ceil(to / step.length) * step.length,
    step,
    live,
  };
}
