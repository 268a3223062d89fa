// Comments beside the player, and as pins under its timeline; whatever they say becomes text, never markup.

import { clock, entry } from "./feed.js";
import { stamp } from "./time.js";

const said = (name) => document.querySelector(`[data-said="${name}"]`);

class Comments {
  constructor(player, seek) {
    this.player = player;
    this.seek = seek;
  }

  show(found) {
    const list = said("comments"), pins = said("pins");
    list.replaceChildren(...found.map((one) => this.line(one)));
    pins.replaceChildren(...found.filter((one) => one.at_us !== null).map((one) => this.pin(one)));
    said("said").textContent = found.length ? "" : "Nobody has said anything yet.";
  }

  line(one) {
    const words = [one.mark, one.text].filter(Boolean).join(": ");
    const item = entry(one.at_us ?? 0, "comment", words, () => this.seek(one.at_us ?? 0));
    const at = item.querySelector(".at"), who = Object.assign(document.createElement("b"), { textContent: `${one.person} ` });
    if (one.at_us === null) at.textContent = "all";
    item.querySelector(".text").prepend(who);
    item.firstChild.title = stamp(new Date(one.at * 1000));
    return item;
  }

  pin(one) {
    const pin = document.createElement("button"), text = `${clock(one.at_us)} ${one.person}: ${one.text}`;
    pin.type = "button";
    pin.className = "pin";
    pin.title = text;
    pin.setAttribute("aria-label", `Comment at ${text}`);
    pin.style.left = `${(one.at_us / Math.max(this.player.duration, 1)) * 100}%`;
    pin.addEventListener("click", () => this.seek(one.at_us));
    return pin;
  }
}

async function answered(answer) {
  if (answer.ok) return answer.json();
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  throw new Error(page.querySelector('[role="alert"]')?.textContent ?? `The console answered ${answer.status}.`);
}

export async function showComments(player, seek) {
  const form = document.querySelector("form.comment"), comments = new Comments(player, seek);
  const wrong = (error) => (said("said").textContent = error.message);
  form.elements.text.addEventListener("focus", () => {
    player.pause();
    form.elements.moment.value = clock(player.at, 1);
  });
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    try {
      const fields = new URLSearchParams(new FormData(form));
      comments.show(await answered(await fetch(form.action, { method: "POST", body: fields })));
      form.reset();
    } catch (error) {
      wrong(error);
    }
  });
  try {
    comments.show(await answered(await fetch(form.action)));
  } catch (error) {
    wrong(error);
  }
}
