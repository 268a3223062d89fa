// The player: one for all protocols. Time is a number of microseconds; whatever shows a moment is told which.
// A terminal is shown from pieces of its recording, a desktop from pictures, a database session as its statements.

import { decode } from "@msgpack/msgpack";
import { showComments } from "./comments.js";
import { clock, entry, Queries } from "./feed.js";
import { DesktopView } from "./motion.js";
import { Screen } from "./screen.js";

const STALL_MS = 50, IDLE_US = 2_000_000, BEFORE_US = 300_000, STEP_US = 5_000_000, KEPT = 12;
const THUMBS = 120, REST_MS = 80; // small pictures of a session; how long a pointer stays before one is asked for
const stage = document.querySelector(".screen");
const said = (name) => document.querySelector(`[data-said="${name}"]`);
const control = (name) => document.querySelector(`[data-do="${name}"]`);
const base = stage.dataset.recording;

async function get(path) {
  const answer = await fetch(`${base}${path}`);
  if (!answer.ok) {
    const page = new DOMParser().parseFromString(await answer.text(), "text/html");
    throw new Error(page.querySelector('[role="alert"]')?.textContent ?? `The console answered ${answer.status}.`);
  }
  return answer;
}

const unpacked = async (path) => decode(new Uint8Array(await (await get(path)).arrayBuffer()));

// Each view shows a moment (seek), goes on to a later one (advance), and knows when next something happens (next).

class TerminalView {
  constructor(overview) {
    this.begins = overview.pieces;
    this.screen = new Screen(stage.querySelector(".terminal"));
    this.pieces = new Map();
    this.forget();
  }

  forget() {
    this.number = -1; // of the piece that is shown
    this.current = null;
    this.place = 0; // of its next event
    this.at = -1;
  }

  piece(number) {
    if (!this.pieces.has(number)) {
      if (this.pieces.size >= KEPT) this.pieces.delete(this.pieces.keys().next().value);
      const asked = unpacked(`/pieces/${number}`);
      asked.catch(() => this.pieces.delete(number));
      this.pieces.set(number, asked);
    }
    return this.pieces.get(number);
  }

  numberAt(at) {
    let low = 0, high = this.begins.length - 1;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (this.begins[middle] <= at) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  // A jump is the screen of its moment; the piece it is in comes after it, for what goes on from there.
  async seek(at) {
    if (this.current && at >= this.at && this.numberAt(at) === this.number) return this.advance(at);
    this.forget();
    const { size, data } = await unpacked(`/screens/${Math.floor(at)}`), number = this.numberAt(at);
    this.screen.reset();
    if (size[0]) {
      this.screen.resize(size);
      await this.screen.write(data);
      this.at = Math.floor(at);
      this.number = number;
      this.piece(number).catch(() => {});
    } else {
      await this.begin(number); // nothing was shown by then
      this.screen.resize(this.current.size);
      await this.advance(at);
    }
  }

  // Goes on behind the screen a jump has shown: what of the piece is in it already is left out.
  async join() {
    const piece = await this.piece(this.number);
    const after = piece.events.findIndex(([at]) => at > this.at);
    this.place = after < 0 ? piece.events.length : after;
    await this.screen.write(unfinished(piece, this.place));
    this.current = piece;
  }

  async begin(number) {
    this.number = number;
    this.current = await this.piece(number);
    this.place = 0;
    if (number + 1 < this.begins.length) this.piece(number + 1).catch(() => {});
  }

  async advance(at) {
    if (!this.current) await this.join();
    for (;;) {
      const events = this.current.events;
      let last = null;
      while (this.place < events.length && events[this.place][0] <= at) {
        const [, kind, what] = events[this.place++];
        if (kind === "out") {
          last = this.screen.write(what);
          continue;
        }
        await last;
        if (kind === "size") this.screen.resize(what);
        else this.screen.reset();
      }
      await last;
      this.at = at;
      const more = this.place >= events.length && this.number + 1 < this.begins.length && this.begins[this.number + 1] <= at;
      if (!more) return;
      await this.begin(this.number + 1);
    }
  }

  next() {
    if (!this.current) return this.at; // it is not known yet
    return this.current.events[this.place]?.[0] ?? this.begins[this.number + 1] ?? Infinity;
  }
}

// The bytes of a letter of UTF-8 that the events before a place have begun and not ended.
function unfinished(piece, place) {
  let tail = piece.rest;
  for (let n = Math.max(place - 4, 0); n < place; n++) if (piece.events[n][1] === "out") tail = joined(tail, piece.events[n][2]);
  for (let back = 1; back <= Math.min(tail.length, 3); back++) {
    const byte = tail[tail.length - back];
    if ((byte & 0xc0) === 0x80) continue;
    const length = byte >= 0xf0 ? 4 : byte >= 0xe0 ? 3 : byte >= 0xc0 ? 2 : 1;
    return length > back ? tail.subarray(tail.length - back) : new Uint8Array();
  }
  return new Uint8Array();
}

function joined(one, other) {
  const both = new Uint8Array(one.length + other.length);
  both.set(one);
  both.set(other, one.length);
  return both.slice(-4);
}

class QueriesView {
  constructor(overview) {
    const list = new Queries(stage.querySelector(".queries"));
    this.items = overview.queries.map((query) => ({ at: query.at_us, item: list.show(query) }));
    this.at = 0;
  }

  async seek(at) {
    this.at = at;
    let latest = null;
    for (const one of this.items) {
      one.item.classList.toggle("ahead", one.at > at);
      if (one.at <= at) latest = one.item;
    }
    latest?.scrollIntoView({ block: "nearest" });
  }

  advance(at) {
    return this.seek(at);
  }

  next() {
    return this.items.find((one) => one.at > this.at)?.at ?? Infinity;
  }
}

class Player {
  constructor(overview, view) {
    this.duration = overview.duration_us;
    this.view = view;
    this.at = 0;
    this.playing = false;
    this.turn = 0;
    this.log = overview.log.map(([at, kind, text]) => {
      const item = entry(at, kind, text, () => this.seek(at));
      said("log").append(item);
      return { at, item, text: text.toLowerCase() };
    });
    if (overview.more) said("found").textContent = `The first ${overview.log.length} entries; the session's logs have ${overview.more} more.`;
  }

  async seek(at) {
    const turn = ++this.turn, began = performance.now();
    this.at = Math.min(Math.max(at, 0), this.duration);
    this.tell();
    await (this.working = (this.working ?? Promise.resolve()).catch(() => {}).then(() => turn === this.turn && this.view.seek(this.at)));
    return performance.now() - began;
  }

  async play() {
    this.playing = true;
    control("play").textContent = "Pause";
    this.view.sound?.begin().catch(() => {}); // where there is no sound card pictures are shown all the same
    if (this.at >= this.duration) await this.seek(0);
    let before = performance.now();
    while (this.playing) {
      const now = await new Promise(requestAnimationFrame);
      const turn = this.turn;
      await this.working;
      const speed = Number(control("speed").value);
      let at = this.at + Math.max(now - before, 0) * 1000 * speed;
      before = now;
      const next = this.view.next(at);
      if (control("idle").checked && next - at > IDLE_US) at = Math.min(next, this.duration) - BEFORE_US;
      if (turn !== this.turn) continue;
      this.at = Math.min(Math.max(at, this.at), this.duration);
      this.tell();
      await this.view.advance(this.at, speed);
      if (turn !== this.turn || !this.playing) continue;
      before = Math.max(before, performance.now() - STALL_MS); // what was waited for is not skipped
      this.hear(now, speed);
      if (this.at >= this.duration) this.pause();
      if (next === Infinity && control("idle").checked) {
        this.at = this.duration;
        this.tell();
        this.pause();
      }
    }
  }

  pause() {
    this.playing = false;
    control("play").textContent = "Play";
    this.view.rest?.();
  }

  hear(frame, speed) {
    const why = this.view.hear?.(this.at, frame, speed);
    if (why !== undefined && said("sound").textContent !== why) said("sound").textContent = why;
  }

  tell() {
    const slider = document.querySelector(".timeline"), text = `${clock(this.at)} / ${clock(this.duration)}`;
    said("time").textContent = text;
    slider.setAttribute("aria-valuenow", (this.at / 1e6).toFixed(1));
    slider.setAttribute("aria-valuetext", text);
    slider.style.setProperty("--x", `${(this.at / Math.max(this.duration, 1)) * slider.clientWidth}px`);
    said("link").href = `?at=${(this.at / 1e6).toFixed(1)}`;
    if (said("still")) said("still").href = `${base}/stills/${Math.floor(this.at)}`;
    let current = null;
    for (const one of this.log) {
      if (one.at > this.at) break;
      if (!one.item.hidden) current = one.item;
    }
    if (current !== this.current) {
      this.current?.firstChild.removeAttribute("aria-current");
      current?.firstChild.setAttribute("aria-current", "true");
      this.current = current;
      if (current) {
        const list = said("log");
        list.scrollTop = current.offsetTop - list.offsetTop - list.clientHeight / 2;
      }
    }
  }

  find(text) {
    let found = 0;
    for (const one of this.log) {
      one.item.hidden = !one.text.includes(text);
      found += !one.item.hidden;
    }
    said("found").textContent = text ? `${found} of ${this.log.length} entries` : "";
  }
}

function heat(overview) {
  const canvas = document.querySelector(".timeline canvas"), scale = devicePixelRatio;
  const width = (canvas.width = canvas.clientWidth * scale), height = (canvas.height = canvas.clientHeight * scale);
  const pen = canvas.getContext("2d"), bins = overview.heat, step = width / bins.length;
  const most = [0, 1].map((row) => Math.max(1, ...bins.map((bin) => Math.log1p(bin[row]))));
  bins.forEach(([out, typed, findings], bin) => {
    const tall = [out, typed].map((amount, row) => Math.log1p(amount) / most[row]);
    pen.fillStyle = "#4a86e8";
    pen.fillRect(bin * step, height * 0.58 * (1 - tall[0]) + height * 0.02, step + 0.5, height * 0.58 * tall[0]);
    pen.fillStyle = "#2fae66";
    pen.fillRect(bin * step, height * 0.64, step + 0.5, height * 0.34 * tall[1]);
    if (findings) {
      pen.fillStyle = "#e0484f";
      pen.fillRect(bin * step, 0, Math.max(step, 3 * scale), height);
    }
  });
}

// A small picture of what was shown where the pointer is: each is asked for once, when the pointer rests there.
class Thumbs {
  constructor(slider, duration) {
    this.figure = said("thumb");
    this.known = new Map();
    if (!this.figure) return;
    slider.addEventListener("pointermove", (event) => {
      const box = slider.getBoundingClientRect(), share = Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1);
      clearTimeout(this.waiting);
      const at = Math.floor(((Math.min(Math.floor(share * THUMBS), THUMBS - 1) + 0.5) / THUMBS) * duration);
      this.waiting = setTimeout(() => this.show(at, share * duration, event.clientX - box.left), this.known.has(at) ? 0 : REST_MS);
    });
    slider.addEventListener("pointerleave", () => this.hide());
  }

  hide() {
    clearTimeout(this.waiting);
    this.at = null;
    this.figure.hidden = true;
  }

  async show(at, moment, left) {
    this.at = at;
    if (!this.known.has(at)) this.known.set(at, get(`/thumbs/${at}`).then(async (answer) => (answer.status === 204 ? "" : URL.createObjectURL(await answer.blob()))));
    const address = await this.known.get(at).catch(() => {
      this.known.delete(at);
      return "";
    });
    if (this.at !== at) return; // the pointer has gone on
    const picture = this.figure.querySelector("img");
    picture.hidden = !address;
    if (address && picture.getAttribute("src") !== address) picture.src = address;
    this.figure.querySelector("figcaption").textContent = clock(moment);
    this.figure.hidden = false;
    const room = this.figure.parentElement.clientWidth - this.figure.offsetWidth;
    this.figure.style.setProperty("--x", `${Math.min(Math.max(left - this.figure.offsetWidth / 2, 0), room)}px`);
  }
}

function wire(player, overview) {
  const slider = document.querySelector(".timeline");
  slider.setAttribute("aria-valuemax", (player.duration / 1e6).toFixed(1));
  const wrong = (error) => {
    player.pause();
    said("wrong").hidden = false;
    said("wrong").textContent = error.message;
  };
  const seek = (at) => player.seek(at).catch(wrong);
  const pointed = (event) => {
    const box = slider.getBoundingClientRect();
    seek(((event.clientX - box.left) / box.width) * player.duration);
  };
  slider.addEventListener("pointerdown", (event) => {
    slider.setPointerCapture(event.pointerId);
    pointed(event);
  });
  slider.addEventListener("pointermove", (event) => event.buttons && pointed(event));
  const full = () => (document.fullscreenElement ? document.exitFullscreen() : stage.parentElement.requestFullscreen());
  const toggle = () => (player.playing ? player.pause() : player.play().catch(wrong));
  new Thumbs(slider, player.duration);
  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.target.closest("input, select, textarea, button, a, summary, .feed, .queries")) return;
    const to = { ArrowLeft: player.at - STEP_US, ArrowRight: player.at + STEP_US, PageDown: player.at - 6 * STEP_US,
                 PageUp: player.at + 6 * STEP_US, Home: 0, End: player.duration }[event.key];
    if (event.key === " ") toggle();
    else if (event.key === "f") full();
    else if (to !== undefined) seek(to);
    else return;
    event.preventDefault();
  });
  control("play").addEventListener("click", toggle);
  control("volume")?.addEventListener("input", (event) => player.view.sound.volume(Number(event.target.value) / 100));
  control("mute")?.addEventListener("change", (event) => player.view.sound.volume(event.target.checked ? 0 : Number(control("volume").value) / 100));
  control("full").addEventListener("click", full);
  control("find").addEventListener("input", (event) => player.find(event.target.value.trim().toLowerCase()));
  addEventListener("resize", () => {
    heat(overview);
    player.tell();
  });
  heat(overview);
  return seek;
}

try {
  const overview = await (await get("")).json();
  said("note").textContent = overview.note;
  said("note").hidden = !overview.note;
  const view = new { terminal: TerminalView, desktop: DesktopView, queries: QueriesView }[stage.dataset.kind](overview, get, stage);
  const player = new Player(overview, view);
  window.proxyd = { player, view, screen: view.screen };
  const seek = wire(player, overview);
  showComments(player, seek);
  await seek(Number(new URLSearchParams(location.search).get("at") ?? 0) * 1e6 || 0);
  said("status").textContent = "";
} catch (error) {
  said("wrong").hidden = false;
  said("wrong").textContent = error.message;
  said("status").textContent = "";
}
