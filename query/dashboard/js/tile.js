// The lines every tile has: its number, whether it is exact, and as of when.
import { ago, count, moment } from "./format.js";

/** One node by its `data-testid`. */
export function node(name) {
  return document.querySelector(`[data-testid="${name}"]`);
}

/** Changes a text only if it differs: a screen reader and a selection notice. */
export function setText(name, text) {
  const place = node(name);
  if (place.textContent !== text) {
    place.textContent = text;
  }
}

/** What holds for several answers shown as one: exact only if all are, complete and updated as the oldest. */
export function together(answers) {
  const oldest = (times) => (times.some((time) => time === null) ? null : Math.min(...times));
  return {
    exact: answers.every((answer) => answer.exact),
    closed: answers.every((answer) => answer.closed),
    pending: Math.max(...answers.map((answer) => Number(answer.pending))),
    completeThrough: oldest(answers.map((answer) => answer.completeThrough)),
    updatedAt: oldest(answers.map((answer) => answer.updatedAt)),
  };
}

/** `exact`, or `so far` with how many events still wait to be judged; once nothing follows, those are not judged any more. */
export function exactness({ exact, closed, pending }) {
  if (exact) {
    return "exact";
  }
  const word = closed && pending > 0 ? "not exact" : "so far";
  return pending > 0 ? `${word} · ${count(pending)} pending` : word;
}

/** What an end of time (`run --drain`) adds: it is told only beside numbers that nothing can change any more. */
function completeness({ completeThrough, closed, exact }, now) {
  if (closed && exact) {
    return "complete, closed for good";
  }
  return completeThrough === null ? "nothing complete yet" : `complete through ${moment(completeThrough, now)}`;
}

/** `complete through 14:01:00 · updated 2 s ago`. */
export function statusLine(answer, now) {
  const complete = completeness(answer, now);
  return answer.updatedAt === null ? complete : `${complete} · updated ${ago(now - answer.updatedAt)}`;
}

/** The head of a tile: big number, exactness, status. A table without a number of its own puts exactness into its status. */
export class TileHead {
  constructor(name, withNumber = true) {
    this.name = name;
    this.withNumber = withNumber;
    this.envelope = null;
  }

  show(number, answers, now) {
    this.envelope = together(answers);
    if (this.withNumber) {
      setText(`${this.name}-number`, number);
      setText(`${this.name}-exactness`, exactness(this.envelope));
      node(`${this.name}-exactness`).dataset.exact = String(this.envelope.exact);
    }
    this.tick(now);
  }

  /** Ages the status line; the numbers stay. */
  tick(now) {
    if (this.envelope !== null) {
      const line = statusLine(this.envelope, now);
      setText(`${this.name}-status`, this.withNumber ? line : `${exactness(this.envelope)} · ${line}`);
    }
  }
}
