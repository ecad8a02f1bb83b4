// Everything one refresh shows, read at one commit.
import { ask, extent, now } from "./api.js";
import { extentOf, resolve } from "./ranges.js";

const ROUNDS = 3;

/**
 * Asks what is not known yet, then again whatever is older than the newest answer, at most ROUNDS times: while commits
 * arrive once a second and answers take milliseconds, the second round settles it. `questions` is
 * `{name: [path, parameters]}`.
 */
async function askAtOneEpoch(questions, known = {}) {
  const answers = { ...known };
  let open = Object.keys(questions).filter((name) => !(name in known));
  for (let round = 0; round < ROUNDS && open.length > 0; round += 1) {
    const arrived = await Promise.all(open.map((name) => ask(...questions[name])));
    open.forEach((name, index) => {
      answers[name] = arrived[index];
    });
    const newest = Math.max(...Object.values(answers).map((answer) => answer.epoch ?? 0));
    open = Object.keys(questions).filter((name) => (answers[name].epoch ?? 0) < newest);
  }
  return answers;
}

/** The currency to show: the reader's, else the one kept from before, else the one with most orders. */
function currencyOf(wanted, kept, revenue) {
  const names = revenue.map((each) => each.currency);
  if (names.includes(wanted)) {
    return wanted;
  }
  if (names.includes(kept)) {
    return kept;
  }
  return [...revenue].sort((a, b) => Number(b.orders) - Number(a.orders) || (a.currency < b.currency ? -1 : 1))[0]?.currency;
}

/** Reads all that the page shows for a view `{choice, tenant, currency}`. */
export async function read(view, keptCurrency) {
  const tenant = view.tenant ?? "default";
  const whole = await ask("range", { tenant });
  const { first, last } = extent(whole.data);
  const data = extentOf(first, last, whole, now());
  const range = resolve(view.choice, data, now());
  const span = { from: range.from, to: range.to, tenant };
  const stepped = { ...span, step: range.step.name };

  const questions = {
    totals: ["totals", span],
    views: ["timeseries", { metric: "views", ...stepped }],
    users: ["timeseries", { metric: "unique_users", ...stepped }],
    errors: ["timeseries", { metric: "errors", ...stepped }],
    sessions: ["sessions", stepped],
    pages: ["top", { by: "page", metric: "views", limit: 10, ...span }],
    versions: ["top", { by: "error_version", metric: "errors", limit: 6, ...span }],
  };
  let answers = await askAtOneEpoch(questions);
  const currency = currencyOf(view.currency, keptCurrency, answers.totals.data.revenue);
  if (currency !== undefined) {
    questions.revenue = ["timeseries", { metric: "revenue_cents", currency, ...stepped }];
    answers = await askAtOneEpoch(questions, answers);
  }
  const epochs = [...new Set(Object.values(answers).map((answer) => answer.epoch))].sort((a, b) => a - b);
  return { range, extent: data, currency, answers, epochs };
}
