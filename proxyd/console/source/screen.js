// A terminal on the page: it shows, and says nothing back. Its letters are as large as the place for it allows.

import "./csp.js";
import { Unicode11Addon } from "@xterm/addon-unicode11";
import { Terminal } from "@xterm/xterm";

const FONT = 'ui-monospace, "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace';
const LARGEST = 18, SMALLEST = 6, LINE = 1.2;
const USUAL = [80, 24];

export class Screen {
  constructor(place) {
    this.place = place;
    this.terminal = new Terminal({
      cols: USUAL[0], rows: USUAL[1], disableStdin: true, cursorBlink: false, scrollback: 0, fontFamily: FONT, fontSize: 14,
      screenReaderMode: true, allowProposedApi: true, linkHandler: { activate() {} }, theme: { background: "#10131a", foreground: "#e6e9ef" },
    });
    this.terminal.loadAddon(new Unicode11Addon());
    this.terminal.unicode.activeVersion = "11"; // else an emoji is half as wide as programs think
    this.terminal.open(place);
    new ResizeObserver(() => this.fit()).observe(place.parentElement);
  }

  resize([columns, rows]) {
    if (!columns || !rows) [columns, rows] = USUAL;
    if (columns !== this.terminal.cols || rows !== this.terminal.rows) {
      this.terminal.resize(Math.min(columns, 1000), Math.min(rows, 500));
      this.fit();
    }
  }

  fit() {
    const box = this.place.parentElement, style = getComputedStyle(box);
    const width = box.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight) - 16;
    const height = Math.max(box.clientHeight - 24, 200);
    const pen = document.createElement("canvas").getContext("2d");
    pen.font = `100px ${FONT}`;
    const letter = pen.measureText("W").width / 100;
    const size = Math.min(width / (this.terminal.cols * letter), height / (this.terminal.rows * LINE), LARGEST);
    this.terminal.options.fontSize = Math.max(Math.floor(size), SMALLEST);
  }

  write(bytes) {
    return new Promise((done) => this.terminal.write(bytes, done));
  }

  reset() {
    this.terminal.reset();
  }

  text() {
    const buffer = this.terminal.buffer.active, lines = [];
    for (let row = 0; row < this.terminal.rows; row++) lines.push(buffer.getLine(buffer.viewportY + row)?.translateToString(true) ?? "");
    return lines;
  }
}
