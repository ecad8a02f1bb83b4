// Debian's Chromium under playwright-core, which is installed under .cache/ on first use (it brings no browser along).
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync } from "node:fs";
import { createRequire } from "node:module";
import { fileURLToPath } from "node:url";

const VERSION = "1.65.1";
const FOLDER = fileURLToPath(new URL("../../.cache/browser/", import.meta.url));
const PLACES = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"];
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
];

function playwright() {
  const package_ = `${FOLDER}node_modules/playwright-core/package.json`;
  const require = createRequire(package_);
  if (!existsSync(package_) || require(package_).version !== VERSION) {
    mkdirSync(FOLDER, { recursive: true });
    execFileSync("npm", ["install", "--prefix", FOLDER, "--no-save", "--no-audit", "--no-fund", `playwright-core@${VERSION}`], {
      stdio: ["ignore", "ignore", "inherit"],
    });
  }
  return require("playwright-core");
}

/** Starts the browser; CHROMIUM names another binary. */
export async function launch() {
  const executablePath = process.env.CHROMIUM ?? PLACES.find((place) => existsSync(place));
  if (executablePath === undefined) {
    throw new Error("no Chromium on this machine: apt-get install chromium, or name one in CHROMIUM");
  }
  return playwright().chromium.launch({ executablePath, args: FLAGS });
}
