// A desktop on a canvas: whole pictures and patches of the one before, zstd of rows of red, green, blue.
// The pointer is drawn beside it, on top: where it is, as an arrow of ours.

import { decompress } from "fzstd";

export class Desktop {
  constructor(canvas, pointer) {
    this.canvas = canvas;
    this.pointer = pointer;
    this.pen = canvas.getContext("2d", { alpha: false });
  }

  show(shown) {
    if (shown.whole && (this.canvas.width !== shown.width || this.canvas.height !== shown.height)) {
      this.canvas.width = Math.max(shown.width, 1);
      this.canvas.height = Math.max(shown.height, 1);
    }
    for (const patch of shown.patches) this.paint(patch);
    this.point(shown);
  }

  paint({ left, top, width, height, rgb }) {
    const raw = new Uint8Array(width * height * 3), pixels = new ImageData(width, height), to = new Uint32Array(pixels.data.buffer);
    raw[Symbol.toPrimitive] = () => NaN; // fzstd 0.1.1 compares it with a number, for which all of it would be made text
    decompress(rgb, raw);
    for (let from = 0, at = 0; from < raw.length; from += 3, at++) {
      to[at] = 0xff000000 | (raw[from + 2] << 16) | (raw[from + 1] << 8) | raw[from];
    }
    this.pen.putImageData(pixels, left, top);
  }

  point({ pointer: [x, y, visible], width, height }) {
    this.pointer.hidden = !visible || !(x || y); // nobody has said where it is
    this.pointer.style.setProperty("--x", x / Math.max(width, 1));
    this.pointer.style.setProperty("--y", y / Math.max(height, 1));
  }
}
