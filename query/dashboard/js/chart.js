// A line of buckets over time. Buckets that may still grow are drawn dashed and lighter: they are no dip in traffic.
import uPlot from "/assets/vendor/uplot/uPlot.esm.js";
import { DAY, bucket, compact, dayOfYear, minuteOfDay } from "./format.js";

const FONT = "11px Inter, system-ui, sans-serif";
const INTEGERS = [1, 2, 5].flatMap((digit) => Array.from({ length: 17 }, (_, power) => digit * 10 ** power)).sort((a, b) => a - b);

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** From the accent down to nothing, over the plot's height. */
function shade(plot, strength) {
  const { top, height } = plot.bbox;
  const gradient = plot.ctx.createLinearGradient(0, top, 0, top + Math.max(1, height));
  gradient.addColorStop(0, colour(strength));
  gradient.addColorStop(1, colour("--shade-end"));
  return gradient;
}

/** A chart in `place` (a `div.chart`). `words` says a bucket's value, `axis` a value on the axis, `unit` gives its integer steps. */
export class TimeChart {
  constructor(place, { name, words, axis = compact, unit = () => 1 }) {
    this.place = place;
    this.name = name;
    this.words = words;
    this.axis = axis;
    this.unit = unit;
    this.points = [];
    this.none = true;
    this.plot = null;
    this.hint = document.createElement("div");
    this.hint.className = "hint";
    this.hint.hidden = true;
    this.spoken = document.createElement("output");
    this.spoken.className = "unseen";
    this.message = document.createElement("p");
    this.message.className = "none";
    this.message.textContent = "Nothing in this range";
    this.message.hidden = true;
    place.append(this.hint, this.spoken, this.message);
    place.tabIndex = 0;
    place.setAttribute("role", "img");
    place.addEventListener("keydown", (event) => this.walk(event));
    place.addEventListener("blur", () => this.leave());
    new ResizeObserver(() => this.resize()).observe(place);
    addEventListener("themechange", () => this.plot?.redraw(false));
  }

  /** Shows `[{time, value}]` of `step` milliseconds; buckets that end after `completeThrough` are still open. */
  update(points, step, completeThrough) {
    this.points = points;
    this.step = step;
    const open = points.findIndex(({ time }) => completeThrough === null || time + step > completeThrough);
    this.open = open === -1 ? points.length : open;
    const values = points.map(({ value }) => Number(value));
    // Both lines hold the last closed bucket, so that they meet.
    const data = [
      points.map(({ time }) => time / 1_000),
      values.map((value, index) => (index < this.open ? value : null)),
      values.map((value, index) => (index >= this.open - 1 && this.open < values.length ? value : null)),
    ];
    this.describe(values);
    if (this.plot === null) {
      this.draw(data);
    } else {
      this.plot.setData(data);
    }
    if (this.plot !== null && !this.hint.hidden) {
      this.point(this.plot.cursor.idx);
    }
  }

  describe(values) {
    const none = values.every((value) => value === 0);
    this.none = none;
    this.message.hidden = !none;
    if (values.length === 0) {
      this.place.setAttribute("aria-label", `${this.name}: no data`);
      return;
    }
    const highest = values.indexOf(Math.max(...values));
    const [from, to] = [this.points[0].time, this.points.at(-1).time].map((time) => bucket(time, this.step));
    const said = none ? "all zero" : `highest ${this.words(this.points[highest].value)} at ${bucket(this.points[highest].time, this.step)}`;
    this.place.setAttribute("aria-label", `${this.name}, ${from} to ${to} UTC, ${said}. Arrow keys read single values.`);
  }

  draw(data) {
    const { width, height } = this.size();
    if (width === 0) {
      return;
    }
    const line = (strength, dash) => ({
      stroke: () => colour("--accent"),
      fill: (plot) => shade(plot, strength),
      width: 1.75,
      dash,
      points: { show: (plot) => plot.data[0].length < 3, size: 5 },
    });
    const ticks = { show: false };
    const look = { stroke: () => colour("--muted"), font: FONT, ticks };
    this.plot = new uPlot(
      {
        width,
        height,
        padding: [8, 16, 0, 0],
        legend: { show: false },
        tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1_000), "Etc/UTC"),
        cursor: { y: false, drag: { x: false, y: false, setScale: false }, points: { size: 7, width: 2 } },
        scales: { y: { range: (_, _low, high) => [0, Math.max(high * 1.12, 4 * this.unit())] } },
        axes: [
          { ...look, size: 26, gap: 6, space: 64, grid: { show: false }, values: (_, splits, _axis, _space, step) => splits.map((at) => tick(at * 1_000, step * 1_000)) },
          {
            ...look,
            gap: 6,
            space: 28,
            incrs: () => INTEGERS.map((each) => each * this.unit()),
            grid: { stroke: () => colour("--line"), width: 1 },
            values: (_, splits) => splits.map((value) => (this.none && value > 0 ? "" : this.axis(value))),
            size: (plot, labels) => (labels === null ? 32 : Math.max(32, 12 + 6.5 * Math.max(...labels.map((label) => label.length)))),
          },
        ],
        series: [{}, line("--shade-start", undefined), line("--shade-open", [5, 4])],
        hooks: { setCursor: [(plot) => this.point(plot.cursor.idx)] },
      },
      data,
      this.place,
    );
  }

  size() {
    return { width: this.place.clientWidth, height: this.place.clientHeight };
  }

  resize() {
    const size = this.size();
    if (size.width === 0) {
      return;
    }
    this.plot?.setSize(size);
  }

  /** Says what the bucket `index` holds, beside the cursor. */
  point(index) {
    const point = this.points[index ?? -1];
    this.hint.hidden = point === undefined;
    if (point === undefined) {
      return null;
    }
    const filling = index >= this.open ? " · still filling" : "";
    const text = `${bucket(point.time, this.step)} · ${this.words(point.value)}${filling}`;
    this.hint.textContent = text;
    const left = this.plot.over.offsetLeft + this.plot.valToPos(point.time / 1_000, "x");
    const room = this.place.clientWidth - this.hint.offsetWidth;
    this.hint.style.left = `${Math.min(Math.max(0, left - this.hint.offsetWidth / 2), Math.max(0, room))}px`;
    return text;
  }

  walk(event) {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (by === undefined || this.plot === null || this.points.length === 0) {
      return;
    }
    event.preventDefault();
    const at = this.plot.cursor.idx ?? (by > 0 ? -1 : this.points.length);
    const next = Math.min(Math.max(0, at + by), this.points.length - 1);
    const { time, value } = this.points[next];
    this.plot.setCursor({ left: this.plot.valToPos(time / 1_000, "x"), top: this.plot.valToPos(Number(value), "y") });
    this.spoken.textContent = this.point(next);
  }

  leave() {
    this.plot?.setCursor({ left: -10, top: -10 });
    this.hint.hidden = true;
  }
}

function tick(time, step) {
  return step >= DAY || time % DAY === 0 ? dayOfYear(time) : minuteOfDay(time);
}
