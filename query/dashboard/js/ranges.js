// Which time the page shows. Pure: from the reader's choice, where data is, and now, to a range and its step.
import { DAY, HOUR, MINUTE } from "./format.js";

/** The choices of the range picker. */
export const CHOICES = [
  { id: "auto", label: "Auto", title: "The last 24 hours of what is complete, or less where there is less" },
  { id: "15m", label: "15 min", span: 15 * MINUTE },
  { id: "1h", label: "1 h", span: HOUR },
  { id: "6h", label: "6 h", span: 6 * HOUR },
  { id: "24h", label: "24 h", span: DAY },
  { id: "7d", label: "7 d", span: 7 * DAY },
  { id: "all", label: "All", title: "From the first event to the last that has happened" },
];

const LONGEST = 9_999 * DAY; // The API draws at most 10,000 buckets.
const SHORTEST = 15 * MINUTE;
const STILL_LIVE = 15 * MINUTE;
const TRAIL = 5 * MINUTE; // What fills is two minutes ahead of what is complete, and a little more under load.

/** The step that keeps a chart between some dozens and some hundreds of buckets. */
export function stepFor(span) {
  if (span <= 6 * HOUR) {
    return { name: "minute", length: MINUTE };
  }
  return span <= 14 * DAY ? { name: "hour", length: HOUR } : { name: "day", length: DAY };
}

/**
 * Where data is, from the first and last minute with data: `first`, `end`, and `recent`, the moment from which ranges count
 * back. That is what is complete, with the few minutes behind it that fill; never the last minute with data, since a few
 * stray clocks can put that anywhere. Nothing follows once time was declared ended: then it is the end of the data.
 */
export function extentOf(first, last, { completeThrough, closed }, now) {
  if (first === null || last === null) {
    return null;
  }
  const end = last + MINUTE;
  const through = completeThrough ?? now;
  const recent = closed ? through : Math.max(through, Math.min(end, through + TRAIL));
  return { first, end, recent: Math.min(now, recent), closed };
}

/**
 * The range to show: `{from, to, step, live}`, whole buckets, `to` exclusive. While data arrives a span is counted back
 * from now; otherwise from what is complete, so that history shows too. "All" ends with the last event that has
 * happened, and begins with the first as far as it can be drawn.
 */
export function resolve(choice, extent, now) {
  const live = extent === null || (!extent.closed && extent.recent >= now - STILL_LIVE);
  if (choice.from !== undefined) {
    return aligned(choice.from, choice.to, false);
  }
  const anchor = live ? now : extent.recent;
  const first = extent?.first ?? now;
  if (choice.id === "all") {
    const to = Math.max(anchor, Math.min(extent?.end ?? now, now));
    // Longer than can be drawn, stray clocks of long ago are what is left out.
    return aligned(Math.max(Math.min(first, to - SHORTEST), to - LONGEST), to, live);
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
