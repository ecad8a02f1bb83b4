// When to look again: on every commit the API announces, and every two seconds while it cannot announce.
const POLL = 2_000;
const LEAST_APART = 1_000;
const REFUSED = 10_000;

/**
 * Calls `look` (async, true if the API answered) whenever the page may be out of date: one call at a time, at most one a
 * second, none while the page is hidden. Returns `{soon}`, which asks for a call at once.
 */
export function follow(look) {
  let announced = false;
  let running = false;
  let wanted = false;
  let healthy = true;
  let lastStart = 0;
  let timer;

  async function run() {
    clearTimeout(timer);
    timer = undefined;
    if (running || document.hidden) {
      wanted = true;
      return;
    }
    running = true;
    wanted = false;
    lastStart = performance.now();
    try {
      healthy = await look();
    } catch (mistake) {
      healthy = false; // A mistake of this page: told in the console, and the page goes on.
      reportError(mistake);
    }
    running = false;
    if (wanted) {
      schedule(LEAST_APART);
    } else if (!announced || !healthy) {
      schedule(POLL);
    }
  }

  function schedule(wait) {
    if (timer === undefined) {
      const rest = lastStart + wait - performance.now();
      timer = setTimeout(run, Math.max(0, rest));
    }
  }

  function changed() {
    wanted = true;
    if (!running) {
      schedule(LEAST_APART);
    }
  }

  // Polling stands in until the stream is open. A lost connection is taken up again by the browser itself; a refusal (too
  // many readers, a server that stops) ends it for good, so that a new one has to be made.
  function listen() {
    const commits = new EventSource("/api/v1/changes");
    commits.addEventListener("open", () => {
      announced = true;
      changed();
    });
    commits.addEventListener("commit", changed);
    commits.addEventListener("error", () => {
      announced = false;
      if (commits.readyState === EventSource.CLOSED) {
        setTimeout(listen, REFUSED);
      }
      changed();
    });
  }

  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) {
      changed();
    }
  });
  listen();
  run();
  return { soon: run };
}
