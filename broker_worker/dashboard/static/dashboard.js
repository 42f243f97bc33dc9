// What pages do besides being read. Without it everything but the arrival of new events works.
"use strict";

// A live list: each event is shown once, whatever a reconnected stream repeats, and the list stays short.
document.addEventListener("htmx:sseBeforeMessage", (event) => {
  const list = event.target.closest("[data-live]");
  const place = event.detail.lastEventId; // the position in the ledger, a dot, the event's id
  const position = Number.parseInt(place, 10);
  if (!list || Number.isNaN(position)) return;
  if (position <= Number(list.dataset.last)) {
    event.preventDefault();
    return;
  }
  list.dataset.last = String(position);
  // A stream that has to be opened anew goes on where this one is.
  const source = list.closest("[sse-connect]");
  const address = new URL(source.getAttribute("sse-connect"), location.href);
  address.searchParams.set("after", place);
  source.setAttribute("sse-connect", address.pathname + address.search);
});

document.addEventListener("htmx:sseMessage", (event) => {
  const list = event.target.closest("[data-live]");
  if (!list) return;
  while (list.children.length > Number(list.dataset.most)) list.lastElementChild.remove();
  document.querySelectorAll("[data-when-empty]").forEach((note) => note.remove());
});

const words = { open: "live", lost: "connection lost – trying again", over: "the session is over – log in again" };

function showState(state) {
  document.querySelectorAll(".state").forEach((place) => {
    place.dataset.state = state;
    place.textContent = words[state];
  });
}

document.addEventListener("htmx:sseOpen", () => showState("open"));
document.addEventListener("htmx:sseError", async () => {
  showState("lost");
  try {
    const answer = await fetch("/session", { headers: { "HX-Request": "true" } });
    if (answer.status === 401) showState("over");
  } catch {
    // the dashboard is away; the stream tries again by itself
  }
});
// The ledger was made anew, so positions mean something else: begin again.
document.addEventListener("htmx:sseClose", (event) => {
  if (event.detail.type === "message") location.reload();
});
