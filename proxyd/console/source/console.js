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
    if (fresh && !part.contains(document.activeElement) && fresh.innerHTML !== part.innerHTML) {
      part.replaceChildren(...fresh.childNodes);
    }
  }
}

showTimes(document);
takeTimes();
const parts = [...document.querySelectorAll("[data-live]")];
if (parts.length) {
  setInterval(() => {
    if (document.visibilityState === "visible") refresh(parts).catch(() => {});
  }, REFRESH_MS);
}
