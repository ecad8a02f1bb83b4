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
const SHORTEST = 15 * MINUTE;
const STILL_LIVE = 15 * MINUTE;
const TRAIL = 5 * MINUTE; // The watermark stays two minutes behind the events, and a little more under load.

/** The step that keeps a chart between some dozens and some hundreds of buckets. */
export function stepFor(span) {
  if (span <= 6 * HOUR) {
    return { name: "minute", length: MINUTE };
  }
  return span <= 14 * DAY ? { name: "hour", length: HOUR } : { name: "day", length: DAY };
}

/**
 * Where data is, from the first and last minute with data: `first`, `end`, and `recent`, where it may be said to end. One
 * stray clock can put an event days or centuries ahead; the watermark does not follow such a jump, so beyond now it is
 * the watermark that says where data ends.
 */
export function extentOf(first, last, completeThrough, now) {
  if (first === null || last === null) {
    return null;
  }
  const end = last + MINUTE;
  const recent = last > now && completeThrough !== null ? Math.min(end, completeThrough + TRAIL) : end;
  return { first, end, recent };
}

/**
 * The range to show: `{from, to, step, live}`, whole buckets, `to` exclusive. While data arrives a span is counted back
 * from now; when data ended long ago, from its end, so that history shows too. "All" is all, stray clocks included
 * as far as it can be drawn.
 */
export function resolve(choice, extent, now) {
  const live = extent === null || (extent.recent >= now - STILL_LIVE && extent.first <= now);
  if (choice.from !== undefined) {
    return aligned(choice.from, choice.to, false);
  }
  const anchor = live ? now : extent.recent;
  const first = extent?.first ?? now;
  if (choice.id === "all") {
    const to = Math.max(anchor, extent?.end ?? now);
    // Longer than can be drawn, stray clocks are what is left out: the ones behind, then the ones ahead.
    const from = Math.max(Math.min(first, to - SHORTEST), anchor - LONGEST);
    return aligned(from, Math.min(to, from + LONGEST), live);
  }
  const span = CHOICES.find((each) => each.id === choice.id)?.span;
  return aligned(anchor - (span ?? Math.min(Math.max(anchor - first, SHORTEST), DAY)), anchor, live);
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
