import { listenForChanges } from "./changes.js";
import { listenForPlans } from "./configuration.js";
import { listenForForms } from "./forms.js";
import { keepLive, refresh } from "./live.js";
import { keepTimes, setServerTime } from "./times.js";

document.getElementById("theme")?.addEventListener("click", () => {
  const root = document.documentElement;
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
  try { localStorage.setItem("theme", root.dataset.theme); } catch (_refused) { /* storage is disabled */ }
});

// On a narrow screen, the list of pages scrolls: show the page that is open.
document.querySelector(".pages a[aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

setServerTime(document.querySelector('meta[name="server-time"]')?.content);
keepTimes();
listenForChanges(refresh);
listenForForms();
listenForPlans(refresh);
keepLive();
