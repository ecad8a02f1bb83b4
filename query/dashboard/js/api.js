// The query API as the page asks it. Answers are `{completeThrough, updatedAt, epoch, exact, closed, pending, data}`, times
// in milliseconds; a failure is an ApiError whose message is a sentence.
const PATIENCE = 15_000;

/** The API did not answer, or refused; `refused` tells the second from the first. */
export class ApiError extends Error {
  constructor(message, refused) {
    super(message);
    this.refused = refused;
  }
}

/** How far the server's clock is ahead of this one, in milliseconds; ages are told by the server's clock. */
let skew = 0;

/** Now by the server's clock. */
export function now() {
  return Date.now() + skew;
}

function noteClock(response, sent) {
  const stamp = Date.parse(response.headers.get("date") ?? "");
  // The header counts whole seconds: a difference below two of them is no difference.
  const difference = stamp + 500 - (sent + Date.now()) / 2;
  skew = Number.isFinite(difference) && Math.abs(difference) > 2_000 ? difference : 0;
}

/** Integers beyond 2^53 stay exact as BigInt, where the browser tells their text. */
function exactIntegers(_key, value, context) {
  if (typeof value === "number" && !Number.isSafeInteger(value) && /^-?\d+$/.test(context?.source ?? "")) {
    return BigInt(context.source);
  }
  return value;
}

function address(path, parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") {
      query.set(name, String(value));
    }
  }
  const text = query.toString();
  return `/api/v1/${path}${text ? `?${text}` : ""}`;
}

/** GET, parsed; throws ApiError. */
export async function get(path, parameters = {}) {
  const sent = Date.now();
  let response;
  let text;
  try {
    response = await fetch(address(path, parameters), { signal: AbortSignal.timeout(PATIENCE), cache: "no-store" });
    text = await response.text();
  } catch (failure) {
    const reason = failure.name === "TimeoutError" ? `no answer within ${PATIENCE / 1_000} s` : "no connection";
    throw new ApiError(reason, false);
  }
  noteClock(response, sent);
  let body = null;
  try {
    body = JSON.parse(text, exactIntegers);
  } catch {
    // Told below: what is no JSON is no answer of the API.
  }
  if (!response.ok || body === null) {
    throw new ApiError(body?.error ?? `status ${response.status} without an explanation`, response.status < 500);
  }
  return body;
}

function time(text) {
  return text === null || text === undefined ? null : Date.parse(text);
}

/** GET of a metric: its envelope with times parsed. */
export async function ask(path, parameters) {
  const body = await get(path, parameters);
  return {
    completeThrough: time(body.complete_through),
    updatedAt: time(body.updated_at),
    epoch: body.epoch ?? null,
    exact: body.exact === true,
    closed: body.closed === true,
    pending: body.pending ?? 0,
    data: body.data,
  };
}

/** `[{t, value}]` with `t` in milliseconds. */
export function series(points) {
  return points.map(({ t, value }) => ({ time: time(t), value }));
}

/** First and last minute with data, in milliseconds or null. */
export function extent(data) {
  return { first: time(data?.from), last: time(data?.to) };
}
