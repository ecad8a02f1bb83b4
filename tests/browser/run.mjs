#!/usr/bin/env node
// The dashboard in a real browser.
//
//     run.mjs --url URL [--quick] [--expect FILE.json] [--moves] [--silence URL] [--screenshots DIR] [--prefix NAME]
//
// Opens the page at 390, 768 and 1440 px, light and dark, and checks that nothing overlaps, sticks out, is cut off or too
// pale, that the layout stays put while it loads, that nothing was refused by the content policy or failed in the console,
// and that the keyboard reaches everything; --quick leaves all that out. --expect: the numbers on the tiles (see
// numbers.mjs). --moves: they rise while one looks. --silence: a base URL of fake_api.py, whose API is made silent and must
// be reported. Exits 1 with every fault in a sentence.
import { mkdirSync, readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { launch } from "./chromium.mjs";
import { layoutFaults } from "./layout.mjs";
import { numberFaults } from "./numbers.mjs";

const WIDTHS = [390, 768, 1440];
const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    expect: { type: "string" },
    quick: { type: "boolean", default: false },
    moves: { type: "boolean", default: false },
    silence: { type: "string" },
    screenshots: { type: "string" },
    prefix: { type: "string", default: "dashboard" },
  },
});
if (options.url === undefined) {
  console.error("name the page to look at: run.mjs --url http://127.0.0.1:8090/");
  process.exit(2);
}

const faults = [];
const report = (where, found) => faults.push(...found.map((fault) => `${where}: ${fault}`));

/** Waits for the first numbers; where there was never an event, the tiles are not shown. */
function shown(page) {
  return page.locator('#tiles[aria-busy="false"]').waitFor({ state: "attached" });
}

async function open(browser, width, scheme) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme, reducedMotion: "reduce" });
  const where = `${width} px, ${scheme}`;
  page.on("pageerror", (error) => report(where, [`the page failed: ${error.message}`]));
  page.on("console", (message) => {
    if (message.type() === "error" && !/status of 50\d/.test(message.text())) {
      report(where, [`the console says: ${message.text()}`]);
    }
  });
  // The page keeps a connection open for changes, so "network idle" never comes.
  await page.goto(options.url, { waitUntil: "load" });
  await shown(page);
  await page.evaluate(() => document.fonts.ready);
  const jumped = await page.evaluate(() => new Promise((resolve) => {
    const sum = (entries) => entries.filter((entry) => !entry.hadRecentInput).reduce((whole, entry) => whole + entry.value, 0);
    const observer = new PerformanceObserver((list) => resolve(sum(list.getEntries())));
    observer.observe({ type: "layout-shift", buffered: true });
    requestAnimationFrame(() => requestAnimationFrame(() => resolve(0)));
  }));
  // 0.1 is where a jump begins to disturb by the Web Vitals.
  if (jumped > 0.1) {
    report(where, [`the layout jumped by ${jumped.toFixed(2)} while the page loaded`]);
  }
  return { page, where };
}

async function looks(browser) {
  for (const scheme of ["light", "dark"]) {
    for (const width of WIDTHS) {
      const { page, where } = await open(browser, width, scheme);
      report(where, await layoutFaults(page));
      if (options.screenshots !== undefined) {
        await page.screenshot({ path: `${options.screenshots}/${options.prefix}-${width}-${scheme}.png`, fullPage: true });
      }
      await page.close();
    }
  }
}

async function numbers(browser) {
  const { page } = await open(browser, 1440, "light");
  report("numbers", await numberFaults(page, JSON.parse(readFileSync(options.expect, "utf8"))));
  await page.close();
}

async function moves(browser) {
  const { page } = await open(browser, 1440, "light");
  const views = page.getByTestId("views-number");
  const value = async () => Number((await views.textContent()).replaceAll(",", ""));
  let last = await value();
  for (let rises = 0; rises < 3; rises += 1) {
    const before = last;
    await page.waitForFunction(
      (low) => Number(document.querySelector('[data-testid="views-number"]').textContent.replaceAll(",", "")) > low, before,
    ).catch(() => report("moves", [`views stayed at ${before}`]));
    last = await value();
  }
  await page.close();
}

/** By keyboard alone: the first stops, a range, the theme, and a chart read bucket by bucket. */
async function keyboard(browser) {
  const { page } = await open(browser, 1440, "light");
  await page.keyboard.press("Tab");
  if (!(await page.locator(".skip").evaluate((node) => node === document.activeElement))) {
    report("keyboard", ["the first stop is not the link past the header"]);
  }
  await page.getByTestId("range-all").focus();
  await page.keyboard.press("ArrowLeft");
  await page.waitForFunction(() => location.search.includes("range=7d")).catch(() => report("keyboard", ["arrows choose no range"]));
  await page.getByTestId("theme").focus();
  await page.keyboard.press("Enter");
  const theme = await page.evaluate(() => document.documentElement.dataset.theme);
  await page.reload();
  if (theme !== "dark" || (await page.evaluate(() => document.documentElement.dataset.theme)) !== "dark") {
    report("keyboard", ["the chosen theme is not kept"]);
  }
  await shown(page);
  if (!(await page.getByTestId("views-chart").isVisible())) {
    await page.close();
    return;
  }
  await page.getByTestId("views-chart").focus();
  await page.keyboard.press("ArrowRight");
  const spoken = await page.getByTestId("views-chart").locator("output").textContent();
  if (!/ views?/.test(spoken)) {
    report("keyboard", [`a chart walked by arrows says ${JSON.stringify(spoken)}`]);
  }
  await page.close();
}

async function silence(browser) {
  const { page, where } = await open(browser, 390, "light");
  const before = await page.getByTestId("views-number").textContent();
  await fetch(new URL("/fake/silent?on=1", options.silence));
  await page.getByTestId("range-1h").locator("..").click();
  await page.getByTestId("banner").waitFor();
  if ((await page.getByTestId("views-number").textContent()) !== before) {
    report(where, ["the last numbers did not stay while the API was silent"]);
  }
  report(`${where}, silent`, await layoutFaults(page));
  await fetch(new URL("/fake/silent?on=0", options.silence));
  await page.getByTestId("banner").waitFor({ state: "hidden" });
  await page.close();
}

if (options.screenshots !== undefined) {
  mkdirSync(options.screenshots, { recursive: true });
}
const browser = await launch();
try {
  if (!options.quick) {
    await looks(browser);
    await keyboard(browser);
  }
  await (options.expect === undefined ? null : numbers(browser));
  await (options.moves ? moves(browser) : null);
  await (options.silence === undefined ? null : silence(browser));
} finally {
  await browser.close();
}
for (const fault of faults) {
  console.error(fault);
}
console.log(faults.length === 0 ? "the dashboard is readable and right" : `${faults.length} faults`);
process.exit(faults.length === 0 ? 0 : 1);
