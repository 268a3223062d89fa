// Statements and events as lists; whatever a session holds becomes text, never markup.

export function clock(us, digits = 0) {
  const seconds = Math.floor(us / 1e6), two = (number) => String(number).padStart(2, "0");
  const hours = Math.floor(seconds / 3600), minutes = Math.floor(seconds / 60) % 60;
  const rest = digits ? String(Math.floor(us / 10 ** (6 - digits)) % 10 ** digits).padStart(digits, "0") : "";
  const text = hours ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
  return rest ? `${text}.${rest}` : text;
}

export function entry(at_us, kind, text, activate) {
  const item = document.createElement("li"), line = document.createElement(activate ? "button" : "p");
  item.className = `is-${kind}`;
  const at = Object.assign(document.createElement("span"), { className: "at", textContent: clock(at_us) });
  const what = Object.assign(document.createElement("span"), { className: "text", textContent: text, title: kind });
  line.append(at, what);
  if (activate) {
    line.type = "button";
    line.addEventListener("click", activate);
  }
  item.append(line);
  return item;
}

export class Queries {
  constructor(list) {
    this.list = list;
    this.items = new Map();
  }

  show(query) {
    let item = this.items.get(query.n);
    if (!item) {
      item = document.createElement("li");
      this.items.set(query.n, item);
      this.list.append(item);
      if (this.items.size > 2000) {
        const [first, oldest] = this.items.entries().next().value;
        this.items.delete(first);
        oldest.remove();
      }
    }
    const head = Object.assign(document.createElement("span"), { textContent: `${clock(query.at_us)}  #${query.n}  ${query.text}` });
    const failed = !["ok", "unanswered"].includes(query.status);
    const took = query.us === null ? "" : ` in ${(query.us / 1000).toFixed(1)} ms`;
    const rows = query.rows === null ? "" : `, ${query.rows} ${query.rows === 1 ? "row" : "rows"}`;
    const tail = document.createElement("div");
    tail.className = failed ? "error" : "result";
    tail.textContent = query.status === "unanswered" ? "..." : `${query.outcome}${rows}${took}`;
    item.replaceChildren(head, tail);
    return item;
  }
}
