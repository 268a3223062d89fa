// What every page gets: times in the viewer's own zone, and a list of sessions that keeps itself true.
// Without it all pages work; it reads pages of this console only, and runs nothing they hold.

import { showTimes, takeTimes } from "./time.js";

const REFRESH_MS = 5000;

async function refresh(parts) {
  // Nobody asked for it: it does not count as somebody being there.
  const answer = await fetch(location.href, { headers: { accept: "text/html", "x-proxyd-refresh": "1" } });
  if (!answer.ok) return;
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  showTimes(page);
  for (const part of parts) {
    const fresh = page.querySelector(`[data-live="${part.dataset.live}"]`);
    if (fresh?.dataset.every) part.dataset.every = fresh.dataset.every;
    if (fresh && !part.contains(document.activeElement) && fresh.innerHTML !== part.innerHTML) {
      part.replaceChildren(...fresh.childNodes);
    }
  }
}

// What is to be copied can be selected with one click; where there is a clipboard it gets a button too.
function copyButtons(root) {
  if (!navigator.clipboard) return;
  for (const element of root.querySelectorAll("[data-copy]")) {
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(element.textContent);
        button.textContent = "Copied";
      } catch {
        button.textContent = "Select it";
      }
    });
    element.after(button);
  }
}

showTimes(document);
takeTimes();
copyButtons(document);
const parts = [...document.querySelectorAll("[data-live]")];

// A part says how often it changes; 0: not any more.
function again() {
  const waits = parts.map((part) => Number(part.dataset.every ?? REFRESH_MS)).filter((ms) => ms > 0);
  if (!waits.length) return;
  setTimeout(async () => {
    if (document.visibilityState === "visible") await refresh(parts).catch(() => {});
    again();
  }, Math.min(...waits));
}

again();
