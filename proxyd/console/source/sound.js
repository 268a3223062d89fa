// What a recording sounds like, on the clock of the pictures: pieces of PCM, each heard when what is shown gets there.
// The clock of the sound card is compared with that of the pictures all the time; where they part, sound begins anew.

const AHEAD_US = 1_000_000, APART_S = 0.015, PATIENCE_S = 0.5, SHARE = 0.1;
const SAMPLES = {
  8: (view, at) => view.getUint8(at) / 128 - 1,
  16: (view, at) => view.getInt16(at, true) / 32768,
  24: (view, at) => (view.getInt8(at + 2) * 65536 + view.getUint16(at, true)) / 8388608,
  32: (view, at) => view.getInt32(at, true) / 2147483648,
};

export class Sound {
  constructor() {
    this.pieces = []; // [at_us, end_us, rate, channels, bits, samples], in order
    this.playing = new Set();
    this.anchor = null; // a moment of the recording, and when it is heard
    this.apart = 0;
    this.level = 1;
  }

  get until() {
    return this.pieces.at(-1)?.[1] ?? 0;
  }

  // Begin, which a browser allows when somebody has pressed something.
  begin() {
    if (!this.context) {
      this.context = new AudioContext({ latencyHint: "interactive" });
      this.output = this.context.createGain();
      this.output.connect(this.context.destination);
      this.volume(this.level);
    }
    return this.context.resume();
  }

  volume(level) {
    this.level = level;
    if (this.output) this.output.gain.value = level;
  }

  forget(sounds) {
    this.stop();
    this.pieces = [];
    this.add(sounds);
  }

  add(sounds) {
    for (const [at, rate, channels, bits, samples] of sounds) {
      const frames = Math.floor(samples.length / ((channels * bits) / 8));
      if (frames) this.pieces.push([at, at + (frames / rate) * 1e6, rate, channels, bits, samples]);
    }
  }

  // Forget what is over.
  drop(at) {
    while (this.pieces.length && this.pieces[0][1] < at) this.pieces.shift();
  }

  // A moment is shown in the frame that began at `frame` of performance.now(): play what is heard from there on.
  follow(at, frame) {
    const now = this.context?.state === "running" ? this.heard(frame) : null;
    if (now === null) return;
    if (this.anchor) this.apart += (now - this.at(at) - this.apart) * SHARE;
    if (this.anchor && Math.abs(this.apart) > APART_S) this.stop();
    if (!this.anchor) {
      this.anchor = { at, now };
      this.apart = 0;
    }
    for (const piece of this.pieces) {
      if (piece[0] > at + AHEAD_US) break;
      if (!piece.source) this.play(piece);
    }
  }

  // When a moment is heard, and what is heard at a time of performance.now(), in the context's seconds; null: not known yet.
  at(us) {
    return this.anchor.now + (us - this.anchor.at) / 1e6;
  }

  heard(time) {
    const { contextTime, performanceTime } = this.context.getOutputTimestamp();
    if (!performanceTime) return this.context.currentTime > PATIENCE_S ? this.context.currentTime : null;
    return contextTime + (time - performanceTime) / 1000;
  }

  play(piece) {
    const [us, , rate, channels, bits, samples] = piece, when = this.at(us), late = Math.max(this.context.currentTime - when, 0);
    const source = (piece.source = this.context.createBufferSource());
    source.buffer = this.buffer(rate, channels, bits, samples);
    source.connect(this.output);
    source.onended = () => this.playing.delete(source);
    this.playing.add(source);
    source.start(when + late, late);
  }

  buffer(rate, channels, bits, samples) {
    const bytes = bits / 8, frames = Math.floor(samples.length / (channels * bytes)), sample = SAMPLES[bits];
    const view = new DataView(samples.buffer, samples.byteOffset), buffer = this.context.createBuffer(channels, frames, rate);
    for (let channel = 0; channel < channels; channel++) {
      const to = buffer.getChannelData(channel);
      for (let frame = 0; frame < frames; frame++) to[frame] = sample(view, (frame * channels + channel) * bytes);
    }
    return buffer;
  }

  stop() {
    this.anchor = null;
    for (const source of this.playing) source.stop();
    this.playing.clear();
    for (const piece of this.pieces) piece.source = null;
  }
}
