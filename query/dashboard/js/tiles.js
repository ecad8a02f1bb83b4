// The six tiles: which answer each one shows, and in which words.
import { series } from "./api.js";
import { showBars } from "./bars.js";
import { TimeChart } from "./chart.js";
import { compact, count, decimals, lengthLabel, money } from "./format.js";
import { TileHead, node, setText } from "./tile.js";

function counted(one, many) {
  return (value) => `${count(value)} ${Number(value) === 1 ? one : many}`;
}

/** Until when buckets are drawn as what they stay: once time was declared ended, none fills any more. */
function settled({ completeThrough, closed }) {
  return closed ? Infinity : completeThrough;
}

/** All tiles of the page. `onCurrency(name)` is called when the reader picks another currency. */
export class Tiles {
  constructor(onCurrency) {
    this.onCurrency = onCurrency;
    this.currency = undefined;
    this.heads = {
      views: new TileHead("views"),
      users: new TileHead("users"),
      sessions: new TileHead("sessions"),
      revenue: new TileHead("revenue"),
      pages: new TileHead("pages", false),
      errors: new TileHead("errors"),
    };
    const chart = (name, options) => new TimeChart(node(`${name}-chart`), options);
    this.charts = {
      views: chart("views", { name: "Page views", words: counted("view", "views") }),
      users: chart("users", { name: "Unique users", words: counted("user", "users") }),
      sessions: chart("sessions", { name: "Sessions started", words: counted("session", "sessions") }),
      revenue: chart("revenue", {
        name: "Revenue",
        words: (amount) => `${money(amount, this.currency)} ${this.currency}`,
        axis: (amount) => compact(amount / 10 ** decimals(this.currency)),
        unit: () => 10 ** decimals(this.currency),
      }),
      errors: chart("errors", { name: "Errors", words: counted("error", "errors") }),
    };
  }

  /** Shows one snapshot; every number of the page changes in this call. */
  show({ range, currency, answers }, now) {
    const { totals, views, users, errors, sessions, pages, versions, revenue } = answers;
    this.currency = currency;
    const draw = (name, points, answer) => this.charts[name].update(points, range.step.length, settled(answer));
    for (const place of document.querySelectorAll(".per-step")) {
      place.textContent = `per ${range.step.name}`;
    }

    this.heads.views.show(count(totals.data.views), [totals, views], now);
    draw("views", series(views.data), views);
    this.heads.users.show(count(totals.data.unique_users), [totals, users], now);
    draw("users", series(users.data), users);

    this.heads.sessions.show(count(totals.data.sessions), [totals, sessions], now);
    draw("sessions", series(sessions.data.started), sessions);
    const lengths = sessions.data.lengths.map((each) => {
      const label = lengthLabel(each.from_s, each.to_s);
      return { label, value: each.count, text: count(each.count), title: `sessions of ${label}` };
    });
    showBars(node("sessions-lengths"), lengths, "No sessions in this range");

    this.showRevenue(totals, revenue, range, now);

    this.heads.pages.show(null, [pages], now);
    const byPage = pages.data.map(({ key, value }) => ({ label: key === "" ? "(empty)" : key, value, text: count(value) }));
    showBars(node("pages-table"), byPage, "No page views in this range");

    this.heads.errors.show(count(totals.data.errors), [totals, errors, versions], now);
    draw("errors", series(errors.data), errors);
    const byVersion = versions.data.map(({ key, value }) => ({ label: key === "" ? "no version" : key, value, text: count(value) }));
    showBars(node("errors-table"), byVersion, "No errors in this range");
  }

  showRevenue(totals, revenue, range, now) {
    const each = totals.data.revenue.find(({ currency }) => currency === this.currency);
    const answers = revenue === undefined ? [totals] : [totals, revenue];
    this.heads.revenue.show(money(each?.amount_cents ?? 0, this.currency), answers, now);
    setText("revenue-currency", each?.currency ?? "");
    setText("revenue-orders", count(each?.orders ?? 0));
    this.charts.revenue.update(revenue === undefined ? zeros(range) : series(revenue.data), range.step.length, settled(totals));
    this.showCurrencies(totals.data.revenue.map(({ currency }) => currency));
  }

  showCurrencies(names) {
    const place = node("revenue-currencies");
    const shown = names.length > 1 ? [...names].sort() : [];
    if (place.dataset.names !== shown.join()) {
      place.dataset.names = shown.join();
      place.replaceChildren(...shown.map((name) => currencyButton(name, this.onCurrency)));
    }
    for (const button of place.children) {
      button.setAttribute("aria-pressed", String(button.textContent === this.currency));
    }
  }

  /** Ages every status line. */
  tick(now) {
    for (const head of Object.values(this.heads)) {
      head.tick(now);
    }
  }
}

function currencyButton(name, onCurrency) {
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = name;
  button.dataset.testid = `currency-${name}`;
  button.addEventListener("click", () => onCurrency(name));
  return button;
}

/** A line at zero over the range, for where nothing was sold. */
function zeros({ from, to, step }) {
  return Array.from({ length: (to - from) / step.length }, (_, index) => ({ time: from + index * step.length, value: 0 }));
}
