// A recorded desktop: pictures as they changed, and what was heard, in stretches that are asked for ahead of time.
// A stretch is what changed from one moment to another; the first picture is whole where the one before is not its base.

import { decode } from "@msgpack/msgpack";
import { Desktop } from "./desktop.js";
import { Sound } from "./sound.js";

const SHORTEST_US = 1_000_000, LONGEST_US = 6_000_000, AHEAD_US = 3_000_000, STEP_US = 20_000, LEAP_US = 10_000_000;

export class DesktopView {
  constructor(overview, get, stage) {
    this.get = get;
    this.duration = overview.duration_us;
    const width = overview.duration_us / overview.heat.length;
    this.busy = overview.heat.flatMap(([out, typed], bin) => (out || typed ? [[bin * width, (bin + 1) * width]] : []));
    this.desktop = new Desktop(stage.querySelector("canvas"), stage.querySelector(".pointer"));
    this.sound = new Sound();
    this.pictures = [];
    this.reached = 0; // what is known ends there
    this.span = SHORTEST_US; // of the next stretch: longer while they come whole, so that playing begins soon
    this.turn = 0;
  }

  async stretch(first, last, speed) {
    const answer = await this.get(`/motion/${first}/${last}/${Math.round(STEP_US * speed)}`);
    return decode(new Uint8Array(await answer.arrayBuffer()));
  }

  async seek(at) {
    const turn = ++this.turn, first = Math.round(at);
    this.sound.stop();
    this.asking = null;
    const shown = await this.stretch(first, first, 1);
    if (turn !== this.turn) return;
    this.pictures = shown.pictures;
    this.sound.forget(shown.sounds);
    this.reached = shown.until;
    this.span = SHORTEST_US;
    this.paint(first);
  }

  // Ask for the next stretch, unless that is under way.
  more(speed) {
    this.asking ??= this.ask(this.turn, Math.min(Math.round(this.reached + this.span * speed), this.duration), speed);
    return this.asking;
  }

  async ask(turn, last, speed) {
    try {
      const found = await this.stretch(this.reached, last, speed);
      if (turn !== this.turn) return;
      this.pictures.push(...found.pictures);
      this.sound.add(found.sounds);
      this.span = Math.min(Math.max((2 * (found.until - this.reached)) / speed, SHORTEST_US), LONGEST_US);
      this.reached = found.until;
    } finally {
      if (turn === this.turn) this.asking = null;
    }
  }

  async advance(at, speed = 1) {
    if (at > this.reached + LEAP_US * speed) return this.seek(at);
    const turn = this.turn;
    while (this.reached < Math.min(at, this.duration)) {
      this.sound.stop(); // until what is to be heard is there
      await this.more(speed);
      if (turn !== this.turn) return;
    }
    this.paint(at);
    if (this.reached < this.duration && this.reached - at < AHEAD_US * speed) this.more(speed).catch(() => {}); // asked again when it is due
  }

  paint(at) {
    let count = 0;
    while (count < this.pictures.length && this.pictures[count].at_us <= at) count++;
    const due = this.pictures.splice(0, count), whole = due.findLastIndex((picture) => picture.whole);
    for (const picture of due.slice(Math.max(whole, 0))) this.desktop.show(picture);
  }

  // What the sound is to do at a moment that is shown; says why there is none.
  hear(at, frame, speed) {
    this.sound.drop(at);
    if (speed !== 1) this.sound.stop();
    else this.sound.follow(at, frame);
    return speed === 1 ? "" : `No sound at ${speed}x`;
  }

  rest() {
    this.sound.stop();
  }

  next(at) {
    if (this.sound.until > at) return at;
    if (this.pictures.length) return this.pictures[0].at_us;
    const busy = this.busy.find(([, until]) => until > this.reached);
    return busy ? Math.max(busy[0], this.reached) : Infinity;
  }
}
