// What the reader chose, kept in the page's address so that it can be shared and survives a reload.
import { CHOICES } from "./ranges.js";

function instant(text) {
  if (text === null) {
    return NaN;
  }
  return /^-?\d+$/.test(text) ? Number(text) : Date.parse(text);
}

/** The view of the address: `{choice, tenant, currency}`; what makes no sense there counts as not chosen. */
export function fromAddress() {
  const query = new URLSearchParams(location.search);
  const from = instant(query.get("from"));
  const to = instant(query.get("to"));
  const id = CHOICES.some((choice) => choice.id === query.get("range")) ? query.get("range") : "auto";
  return {
    choice: from < to ? { id: "custom", from, to } : { id },
    tenant: query.get("tenant") ?? undefined,
    currency: query.get("currency") ?? undefined,
  };
}

/** Writes a view into the address, without an entry in the history for every click. */
export function toAddress(view) {
  const query = new URLSearchParams();
  if (view.choice.id === "custom") {
    query.set("from", new Date(view.choice.from).toISOString());
    query.set("to", new Date(view.choice.to).toISOString());
  } else if (view.choice.id !== "auto") {
    query.set("range", view.choice.id);
  }
  for (const name of ["tenant", "currency"]) {
    if (view[name] !== undefined) {
      query.set(name, view[name]);
    }
  }
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
}
