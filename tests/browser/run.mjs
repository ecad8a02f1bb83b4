#!/usr/bin/env node
// The dashboard in a real browser.
//
//     run.mjs --url URL [--looks [--widths N,..] [--screenshots DIR --prefix NAME]] [--keyboard] [--expect FILE.json]
//             [--moves TILE,..] [--silence URL]
//
// --looks: at 390, 768 and 1440 px (or --widths), light and dark, nothing overlaps, sticks out, is cut off or too pale, the
// layout stays put while it loads, and nothing was refused by the content policy or failed in the console. --keyboard:
// it reaches everything. --expect: the numbers on the tiles (see numbers.mjs). --moves: those on these tiles rise while one
// looks. --silence: a base URL of fake_api.py, whose API is made silent and must be reported.
//
// Prints a line of JSON for each test, {"test": name, "faults": [sentence, ..]}; exits 1 if any has a fault.
import { mkdirSync, readFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { launch } from "./chromium.mjs";
import { layoutFaults } from "./layout.mjs";
import { numberFaults } from "./numbers.mjs";

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    looks: { type: "boolean", default: false },
    widths: { type: "string", default: "390,768,1440" },
    screenshots: { type: "string" },
    prefix: { type: "string", default: "dashboard" },
    keyboard: { type: "boolean", default: false },
    expect: { type: "string" },
    moves: { type: "string" },
    silence: { type: "string" },
  },
});
if (options.url === undefined) {
  console.error("name the page to look at: run.mjs --url http://127.0.0.1:8090/");
  process.exit(2);
}

/** Runs a test on a new page, which it may only look at; what it reports, and whatever it throws, is a fault. */
async function test(browser, name, width, scheme, body) {
  const faults = [];
  const report = (found) => faults.push(...[found].flat());
  try {
    const page = await open(browser, width, scheme, report);
    await body(page, report);
    await page.close();
  } catch (error) {
    report(error.message);
  }
  console.log(JSON.stringify({ test: name, faults }));
  if (faults.length > 0) {
    process.exitCode = 1;
  }
}

/** Waits for the first numbers; where there was never an event, the tiles are not shown. */
function shown(page) {
  return page.locator('#tiles[aria-busy="false"]').waitFor({ state: "attached" });
}

async function open(browser, width, scheme, report) {
  const page = await browser.newPage({ viewport: { width, height: 900 }, colorScheme: scheme, reducedMotion: "reduce" });
  page.on("pageerror", (error) => report(`the page failed: ${error.message}`));
  page.on("console", (message) => {
    if (message.type() === "error" && !/status of 50\d/.test(message.text())) {
      report(`the console says: ${message.text()}`);
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
    report(`the layout jumped by ${jumped.toFixed(2)} while the page loaded`);
  }
  return page;
}

async function looks(browser) {
  if (options.screenshots !== undefined) {
    mkdirSync(options.screenshots, { recursive: true });
  }
  for (const scheme of ["light", "dark"]) {
    for (const width of options.widths.split(",").map(Number)) {
      await test(browser, `everything is readable at ${width} px, ${scheme}`, width, scheme, async (page, report) => {
        report(await layoutFaults(page));
        if (options.screenshots !== undefined) {
          await page.screenshot({ path: `${options.screenshots}/${options.prefix}-${width}-${scheme}.png`, fullPage: true });
        }
      });
    }
  }
}

async function numbers(page, report) {
  report(await numberFaults(page, JSON.parse(readFileSync(options.expect, "utf8"))));
}

/** Each number rises, the first one three times. */
async function moves(page, report) {
  const tiles = options.moves.split(",");
  const read = (tile) => page.evaluate(
    (name) => Number(document.querySelector(`[data-testid="${name}-number"]`).textContent.replaceAll(",", "")) || 0, tile);
  const rise = async (tile, low) => page.waitForFunction(
    ([name, least]) => Number(document.querySelector(`[data-testid="${name}-number"]`).textContent.replaceAll(",", "")) > least,
    [tile, low],
  ).catch(() => report(`${tile} stayed at ${low}`));
  const first = await Promise.all(tiles.map(read));
  await rise(tiles[0], first[0]);
  await rise(tiles[0], await read(tiles[0]));
  await Promise.all(tiles.map((tile, at) => rise(tile, first[at])));
  await rise(tiles[0], await read(tiles[0]));
}

/** By keyboard alone: the first stops, a range, the theme, and a chart read bucket by bucket. */
async function keyboard(page, report) {
  await page.keyboard.press("Tab");
  if (!(await page.locator(".skip").evaluate((node) => node === document.activeElement))) {
    report("the first stop is not the link past the header");
  }
  await page.getByTestId("range-all").focus();
  await page.keyboard.press("ArrowLeft");
  await page.waitForFunction(() => location.search.includes("range=7d")).catch(() => report("arrows choose no range"));
  await page.getByTestId("theme").focus();
  await page.keyboard.press("Enter");
  const theme = await page.evaluate(() => document.documentElement.dataset.theme);
  await page.reload();
  if (theme !== "dark" || (await page.evaluate(() => document.documentElement.dataset.theme)) !== "dark") {
    report("the chosen theme is not kept");
  }
  await shown(page);
  if (!(await page.getByTestId("views-chart").isVisible())) {
    return;
  }
  await page.getByTestId("views-chart").focus();
  await page.keyboard.press("ArrowRight");
  const spoken = await page.getByTestId("views-chart").locator("output").textContent();
  if (!/ views?/.test(spoken)) {
    report(`a chart walked by arrows says ${JSON.stringify(spoken)}`);
  }
}

async function silence(page, report) {
  const before = await page.getByTestId("views-number").textContent();
  await fetch(new URL("/fake/silent?on=1", options.silence));
  await page.getByTestId("range-1h").locator("..").click();
  await page.getByTestId("banner").waitFor();
  if ((await page.getByTestId("views-number").textContent()) !== before) {
    report("the last numbers did not stay while the API was silent");
  }
  report(await layoutFaults(page));
  await fetch(new URL("/fake/silent?on=0", options.silence));
  await page.getByTestId("banner").waitFor({ state: "hidden" });
}

const browser = await launch();
try {
  if (options.looks) {
    await looks(browser);
  }
  for (const [wanted, name, width, body] of [
    [options.keyboard, "the keyboard reaches everything", 1440, keyboard],
    [options.expect, "every number is the expected one", 1440, numbers],
    [options.moves, "the numbers rise", 1440, moves],
    [options.silence, "a silent API is reported and the numbers stay", 390, silence],
  ]) {
    if (wanted) {
      await test(browser, name, width, "light", body);
    }
  }
} finally {
  await browser.close();
}
