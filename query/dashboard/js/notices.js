// What stands above the tiles when there is something to say: the API is silent, or there is nothing to show.
import { clock, moment } from "./format.js";

const COMMAND = [
  "curl http://127.0.0.1:8080/v1/events -H 'Content-Type: application/json' -d '{\"events\":[{",
  "  \"event_id\":\"'$(date +%s%N)'\",\"event_type\":\"page_view\",\"user_id\":\"me\",",
  "  \"timestamp\":'$(date +%s000)',\"properties\":{\"page\":\"/hello\"}}]}'",
].join("\n");

const banner = document.getElementById("banner");
const nothing = document.getElementById("nothing");
const copy = document.getElementById("copy");
const showData = document.getElementById("show-data");

let silentSince = null;

copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(COMMAND);
    copy.textContent = "Copied";
  } catch {
    copy.textContent = "Select and copy by hand";
  }
  setTimeout(() => {
    copy.textContent = "Copy";
  }, 2_000);
});

/** The API did not answer: says since when, while the last numbers stay. */
export function reportFailure(failure, now) {
  silentSince ??= now;
  const text = failure.refused
    ? `The query API refused this view: ${failure.message}`
    : `The query API has not answered since ${clock(silentSince)} UTC (${failure.message}). The numbers below are the last it gave; asking again every 2 s.`;
  if (banner.textContent !== text) {
    banner.textContent = text;
  }
  banner.hidden = false;
}

/** The API answered. */
export function reportSuccess() {
  silentSince = null;
  banner.hidden = true;
}

/** Says what to do where a snapshot is empty; `onShowData` moves to where data is. */
export function explainEmptiness({ extent, answers }, now, onShowData) {
  const { views, sessions, errors, revenue } = answers.totals.data;
  const empty = extent === null || (Number(views) === 0 && Number(sessions) === 0 && Number(errors) === 0 && revenue.length === 0);
  nothing.hidden = !empty;
  // Where there was never an event, six tiles of zeros would only be in the way of what to do.
  document.body.classList.toggle("unused", extent === null);
  if (!empty) {
    return;
  }
  const [title, text] = nothing.querySelectorAll("h2, p");
  const none = extent === null;
  title.textContent = none ? "No events yet" : "No events in this range";
  text.textContent = none
    ? "Post one to the collector (put in its address where that differs, and an X-API-Key header where it has keys). It shows here within seconds."
    : `There is data from ${moment(extent.first, now)} to ${moment(extent.end, now)} UTC.`;
  nothing.querySelector(".command").hidden = !none;
  document.querySelector('[data-testid="nothing-command"]').textContent = COMMAND;
  showData.hidden = none;
  showData.onclick = onShowData;
}
