// Debian's Chromium under playwright-core, which brings no browser along; install.py puts both on the machine.
import { execFileSync } from "node:child_process";
import { existsSync } from "node:fs";
import { createRequire } from "node:module";

const require = createRequire(new URL("../../.cache/browser/package.json", import.meta.url));
const NAMES = ["chromium", "chromium-browser", "google-chrome"];
const FLAGS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
  "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
];

function found(name) {
  const path = execFileSync("sh", ["-c", 'command -v "$0" || true', name], { encoding: "utf8" }).trim();
  return path === "" ? [] : [path];
}

/** Starts the browser; CHROMIUM names another binary. */
export async function launch() {
  const executablePath = process.env.CHROMIUM ?? NAMES.flatMap(found)[0];
  if (executablePath === undefined || !existsSync(executablePath)) {
    throw new Error("no Chromium on this machine: apt-get install chromium, or name one in CHROMIUM");
  }
  return require("playwright-core").chromium.launch({ executablePath, args: FLAGS });
}
