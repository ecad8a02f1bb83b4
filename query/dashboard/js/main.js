// The page: reads snapshots as commits arrive, shows them, and keeps what the reader chose.
import { ApiError, get, now } from "./api.js";
import { MINUTE, SECOND, date, minuteOfDay } from "./format.js";
import { watchHealth } from "./health.js";
import { follow } from "./live.js";
import { explainEmptiness, reportFailure, reportSuccess } from "./notices.js";
import { CHOICES } from "./ranges.js";
import { read } from "./snapshot.js";
import { setText } from "./tile.js";
import { Tiles } from "./tiles.js";
import { fromAddress, toAddress } from "./view.js";

const view = fromAddress();
const main = document.getElementById("tiles");
const tiles = new Tiles((currency) => change({ currency }));
let shown = null;
let asked = 0;

/** Reads and shows one snapshot; true if the API answered. */
async function look() {
  asked += 1;
  const question = asked;
  try {
    const snapshot = await read(view, tiles.currency);
    reportSuccess();
    if (question === asked) {
      present(snapshot);
    }
    return true;
  } catch (failure) {
    if (!(failure instanceof ApiError)) {
      throw failure;
    }
    reportFailure(failure, now());
    return false;
  }
}

function present(snapshot) {
  shown = snapshot;
  tiles.show(snapshot, now());
  explainEmptiness(snapshot, now(), () => change({ choice: { id: view.choice.id === "auto" ? "all" : "auto" } }));
  setText("span", spanText(snapshot.range));
  setText("consistency", consistency(snapshot.epochs));
  main.setAttribute("aria-busy", "false");
}

function spanText({ from, to, step, live }) {
  const sameDay = date(from) === date(to);
  const until = sameDay ? minuteOfDay(to) : `${date(to)} ${minuteOfDay(to)}`;
  return `${date(from)} ${minuteOfDay(from)} – ${until} UTC, per ${step.name}${live ? ", live" : ""}`;
}

function consistency(epochs) {
  if (epochs.length === 1) {
    return epochs[0] === null ? "" : `Every number is as of epoch ${epochs[0]}.`;
  }
  return `The numbers are as of epochs ${epochs[0]} to ${epochs.at(-1)}.`;
}

function change(part) {
  Object.assign(view, part);
  toAddress(view);
  markChoice();
  main.setAttribute("aria-busy", "true");
  asked += 1; // An answer to the old question, still under way, is not shown.
  live.soon();
}

function markChoice() {
  for (const input of document.querySelectorAll("#ranges input")) {
    input.checked = input.value === view.choice.id;
  }
}

function offerRanges() {
  const custom = { id: "custom", label: "Custom", title: "The range in this page's address" };
  const offered = view.choice.id === "custom" ? [...CHOICES, custom] : CHOICES;
  const place = document.getElementById("ranges");
  const chosen = view.choice;
  for (const { id, label, title } of offered) {
    const option = document.createElement("label");
    const input = document.createElement("input");
    const text = document.createElement("span");
    Object.assign(input, { type: "radio", name: "range", value: id });
    input.dataset.testid = `range-${id}`;
    input.addEventListener("change", () => change({ choice: id === "custom" ? chosen : { id } }));
    text.textContent = label;
    option.title = title ?? `The last ${label}`;
    option.append(input, text);
    place.append(option);
  }
  markChoice();
}

/** Tenants are told by the data; with one of them there is nothing to pick, whatever its name. */
async function offerTenants() {
  const sql = "SELECT DISTINCT tenant FROM stored.page_views_by_minute ORDER BY tenant LIMIT 100";
  const answer = await get("sql", { q: sql }).catch(() => null);
  const known = ((answer?.data ?? answer)?.rows ?? []).map(([tenant]) => tenant);
  const place = document.getElementById("tenant");
  if (known.length === 1 && view.tenant === undefined && known[0] !== "default") {
    change({ tenant: known[0] });
  }
  if (known.length < 2 || place.dataset.names === known.join()) {
    return;
  }
  place.dataset.names = known.join();
  const current = view.tenant ?? "default";
  const names = known.includes(current) ? known : [current, ...known];
  place.replaceChildren(...names.map((name) => new Option(name, name, name === current, name === current)));
  place.closest("label").hidden = false;
}

document.getElementById("tenant").addEventListener("change", (event) => change({ tenant: event.target.value }));
offerRanges();
const live = follow(look);
watchHealth();
offerTenants();
setInterval(offerTenants, 5 * MINUTE);
setInterval(() => {
  tiles.tick(now());
  // Without a commit, time still moves: at most once in a bucket a live range shifts.
  if (shown?.range.live && view.choice.id !== "custom" && now() >= shown.range.to) {
    live.soon();
  }
}, SECOND);
