// The numbers a reader sees, against those expected. Formatted here once more, independently of the page.
const grouped = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, ",");

function money(value, currency) {
  const decimals = { JPY: 0, KWD: 3 }[currency] ?? 2;
  const digits = String(Math.abs(value)).padStart(decimals + 1, "0");
  const whole = grouped(digits.slice(0, digits.length - decimals));
  return `${value < 0 ? "−" : ""}${whole}${decimals > 0 ? `.${digits.slice(-decimals)}` : ""}`;
}

const text = async (page, name) => (await page.getByTestId(name).textContent()).trim();

async function table(page, name) {
  const rows = await page.getByTestId(name).locator("tbody tr:has(th)").all();
  return Promise.all(rows.map(async (row) => [(await row.locator(".label").textContent()).trim(), (await row.locator("td").textContent()).trim()]));
}

/**
 * Sentences about numbers that differ. `expected` may hold views, unique_users, sessions, errors, exact (numbers and a
 * boolean), revenue `[{currency, amount_cents, orders}]`, top_pages and errors_by_version `[{key, value}]`, and
 * session_lengths (counts in the page's order).
 */
export async function numberFaults(page, expected) {
  const faults = [];
  const check = (what, seen, wanted) => {
    if (JSON.stringify(seen) !== JSON.stringify(wanted)) {
      faults.push(`${what}: the page shows ${JSON.stringify(seen)}, expected ${JSON.stringify(wanted)}`);
    }
  };
  for (const [tile, field] of [["views", "views"], ["users", "unique_users"], ["sessions", "sessions"], ["errors", "errors"]]) {
    if (expected[field] !== undefined) {
      check(tile, await text(page, `${tile}-number`), grouped(expected[field]));
    }
    if (expected.exact !== undefined) {
      const seen = await text(page, `${tile}-exactness`);
      check(`exactness of ${tile}`, seen === "exact", expected.exact);
    }
  }
  for (const place of await page.locator(".tile").all()) {
    const said = (await place.locator(".status, .exactness").allTextContents()).join(" · ");
    if (said.includes("closed for good") && /so far|pending/.test(said)) {
      faults.push(`a tile says that it is closed and that it is not: ${said}`);
    }
  }
  const rows = (entries, nameless) => entries.map(({ key, value }) => [key === "" ? nameless : key, grouped(value)]);
  if (expected.top_pages !== undefined) {
    check("top pages", await table(page, "pages-table"), rows(expected.top_pages, "(empty)"));
  }
  if (expected.errors_by_version !== undefined) {
    check("errors by version", await table(page, "errors-table"), rows(expected.errors_by_version, "no version"));
  }
  if (expected.session_lengths !== undefined) {
    const seen = (await table(page, "sessions-lengths")).map(([, value]) => value);
    check("session lengths", seen, expected.session_lengths.map(grouped));
  }
  for (const { currency, amount_cents, orders } of expected.revenue ?? []) {
    if (expected.revenue.length > 1) {
      await page.getByTestId(`currency-${currency}`).click();
      await page.getByTestId("revenue-currency").and(page.getByText(currency, { exact: true })).waitFor();
    }
    check(`revenue in ${currency}`, await text(page, "revenue-number"), money(amount_cents, currency));
    check(`orders in ${currency}`, await text(page, "revenue-orders"), grouped(orders));
  }
  return faults;
}
