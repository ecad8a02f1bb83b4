// From values to the text a reader sees. Pure: no clock, no DOM. Times are milliseconds since 1970, shown in UTC.

export const SECOND = 1_000;
export const MINUTE = 60 * SECOND;
export const HOUR = 60 * MINUTE;
export const DAY = 24 * HOUR;

const GROUPED = new Intl.NumberFormat("en-US");
const COMPACT = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/** `1234567` as `1,234,567`; every digit, also of a BigInt. */
export function count(value) {
  return GROUPED.format(value);
}

/** `12345` as `12.3K`, for axes and where the exact number stands beside it. */
export function compact(value) {
  return COMPACT.format(value);
}

/** Decimals of currencies that do not have two, by ISO 4217. Browsers know others, of how prices are written in everyday life. */
const DECIMALS = new Map(
  Object.entries({
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
  }).flatMap(([decimals, names]) => names.split(" ").map((name) => [name, Number(decimals)])),
);

/** How many decimals a currency has; two where it is not known. */
export function decimals(currency) {
  return DECIMALS.get(currency?.toUpperCase()) ?? 2;
}

/** An integer of a currency's smallest unit as `1,234.56`. Never passes through a fraction, so nothing is lost. */
export function money(amount, currency) {
  const exact = BigInt(amount);
  const size = exact < 0n ? -exact : exact;
  const places = decimals(currency);
  const one = 10n ** BigInt(places);
  const rest = places === 0 ? "" : `.${String(size % one).padStart(places, "0")}`;
  return `${exact < 0n ? "−" : ""}${GROUPED.format(size / one)}${rest}`;
}

function two(value) {
  return String(value).padStart(2, "0");
}

/** `14:01`. */
export function minuteOfDay(time) {
  const at = new Date(time);
  return `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}`;
}

/** `14:01:00`. */
export function clock(time) {
  return `${minuteOfDay(time)}:${two(new Date(time).getUTCSeconds())}`;
}

/** `Nov 23`. */
export function dayOfYear(time) {
  const at = new Date(time);
  return `${MONTHS[at.getUTCMonth()]} ${at.getUTCDate()}`;
}

/** `2026-11-23`. */
export function date(time) {
  return new Date(time).toISOString().slice(0, 10);
}

/** `14:01:00` on the day of `now`, else with its date: a bare clock would lie about yesterday. */
export function moment(time, now) {
  return date(time) === date(now) ? clock(time) : `${date(time)} ${clock(time)}`;
}

/** The start of a bucket as its readers name it: a minute, an hour, a day. */
export function bucket(time, step) {
  if (step >= DAY) {
    return date(time);
  }
  return `${dayOfYear(time)}, ${minuteOfDay(time)}`;
}

/** A duration in its one or two largest units: `4 s`, `2 min 5 s`, `3 h 12 min`, `2 d 4 h`. */
export function duration(span) {
  const seconds = Math.max(0, Math.floor(span / SECOND));
  const pair = (large, unit, small, lesser) => (small === 0 ? `${large} ${unit}` : `${large} ${unit} ${small} ${lesser}`);
  if (seconds < 60) {
    return `${seconds} s`;
  }
  if (seconds < 3_600) {
    return pair(Math.floor(seconds / 60), "min", seconds % 60, "s");
  }
  if (seconds < 86_400) {
    return pair(Math.floor(seconds / 3_600), "h", Math.floor((seconds % 3_600) / 60), "min");
  }
  return pair(Math.floor(seconds / 86_400), "d", Math.floor((seconds % 86_400) / 3_600), "h");
}

/** How long ago, in one unit: `2 s ago`, `5 min ago`. */
export function ago(span) {
  const [large, unit] = duration(span).split(" ");
  return `${large} ${unit} ago`;
}

/** The name of a bucket of session lengths, from and to in seconds; `to` is null for the last. */
export function lengthLabel(from, to) {
  if (to === null || to === undefined) {
    return `over ${from / 60} min`;
  }
  if (to <= 1) {
    return "0 s";
  }
  return to <= 60 ? `${from}–${to} s` : `${from / 60}–${to / 60} min`;
}
