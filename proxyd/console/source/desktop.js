// A desktop on a canvas: whole pictures and patches of the one before, zstd of rows of red, green, blue.

import { decompress } from "fzstd";

export class Desktop {
  constructor(canvas) {
    this.canvas = canvas;
    this.pen = canvas.getContext("2d", { alpha: false });
  }

  show(shown) {
    if (shown.whole && (this.canvas.width !== shown.width || this.canvas.height !== shown.height)) {
      this.canvas.width = shown.width;
      this.canvas.height = shown.height;
    }
    for (const patch of shown.patches) this.paint(patch);
  }

  paint({ left, top, width, height, rgb }) {
    const raw = decompress(rgb), pixels = new ImageData(width, height), to = pixels.data;
    if (raw.length !== width * height * 3) return;
    for (let from = 0, at = 0; from < raw.length; from += 3, at += 4) {
      to[at] = raw[from];
      to[at + 1] = raw[from + 1];
      to[at + 2] = raw[from + 2];
      to[at + 3] = 255;
    }
    this.pen.putImageData(pixels, left, top);
  }
}
