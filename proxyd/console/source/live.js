// The live view: what the session's socket says, shown; and the forms beside it, sent without leaving the page.

import { decode } from "@msgpack/msgpack";
import { Desktop } from "./desktop.js";
import { entry, Queries } from "./feed.js";
import { Screen } from "./screen.js";

const EVENTS = 500;
const stage = document.querySelector(".screen");
const said = (name) => document.querySelector(`[data-said="${name}"]`);
const kind = stage.dataset.kind;
const screen = kind === "terminal" ? new Screen(stage.querySelector(".terminal")) : null;
const desktop = kind === "desktop" ? new Desktop(stage.querySelector("canvas"), stage.querySelector(".pointer")) : null;
const queries = kind === "queries" ? new Queries(stage.querySelector(".queries")) : null;
const lags = [];
let began = 0;

// How late it is when what was recorded at a moment is drawn.
function lag(at_us) {
  requestAnimationFrame(() => {
    lags.push(Date.now() - began - at_us / 1000);
    if (lags.length > 1000) lags.shift();
  });
}

const take = {
  about(row) {
    began = row.started_at * 1000;
    said("status").textContent = "watching";
  },
  size: (size) => screen?.resize(size),
  out([at_us, bytes]) {
    screen?.write(bytes).then(() => lag(at_us));
  },
  shown(changes) {
    for (const change of changes) desktop.show(change);
    lag(changes.at(-1).at_us);
  },
  query(query) {
    const item = queries?.show(query);
    item?.scrollIntoView({ block: "nearest" });
    lag(query.at_us + (query.us ?? 0));
  },
  viewers(names) {
    const counted = new Map();
    for (const name of names) counted.set(name, (counted.get(name) ?? 0) + 1);
    said("viewers").textContent = [...counted].map(([name, times]) => (times > 1 ? `${name} (${times})` : name)).join(", ") || "nobody";
  },
  watching(count) {
    said("viewers").textContent = count > 1 ? `you and ${count - 1} more` : "you";
  },
  blocked(by) {
    said("blocked").hidden = !by;
    said("blocked").textContent = `Blocked by ${by}`;
    for (const form of document.querySelectorAll("form[data-when]")) form.hidden = (form.dataset.when === "blocked") !== Boolean(by);
  },
  event([at_us, what, text]) {
    const list = said("events");
    list.append(entry(at_us, what, text));
    while (list.children.length > EVENTS) list.firstChild.remove();
    list.scrollTop = list.scrollHeight;
  },
  end(text) {
    said("end").hidden = false;
    said("end").textContent = text;
    said("status").textContent = "ended";
  },
};

function connect() {
  const socket = new WebSocket(new URL(stage.dataset.stream, location.href.replace(/^http/, "ws")));
  socket.binaryType = "arraybuffer";
  socket.onmessage = ({ data }) => {
    for (const [name, value] of Object.entries(decode(new Uint8Array(data)))) take[name]?.(value);
  };
  socket.onclose = ({ code, reason }) => {
    if (said("status").textContent !== "ended") {
      take.end(reason || (code === 1006 ? "The connection was lost, or you may not watch this session." : "The view has ended."));
    }
  };
}

for (const form of document.querySelectorAll("form.act")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    said("done").textContent = page.querySelector('.notice[role="status"], [role="alert"]')?.textContent ?? "";
    form.reset();
  });
}

window.proxyd = { screen, desktop, lags };
connect();
