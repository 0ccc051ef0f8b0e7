// Live updates by server-sent events, only while the page is visible.

import { showTimes } from "./times.js";

let source = null; // the connection to the live updates
let changed = false; // the page has to be read again
let waiting = null; // the timer of the next refresh

const region = () => document.querySelector("[data-live]");

function state(name, text) {
  const element = document.getElementById("live-state");
  if (!element || element.dataset.state === name) { return; }
  element.dataset.state = name;
  element.querySelector(".text").textContent = text;
}

// Replace the children of an element, and keep the focus if the element that had it is still there.
export function replace(target, html) {
  const template = document.createElement("template");
  template.innerHTML = html; // rendered by the server with every value escaped; scripts in it are not run
  const focused = document.activeElement?.closest("[data-live]") ? document.activeElement : null;
  const key = focused && (focused.id ? `#${CSS.escape(focused.id)}` : focused.href && `a[href="${CSS.escape(focused.getAttribute("href"))}"]`);
  showTimes(template.content);
  target.replaceChildren(template.content);
  if (key) { target.querySelector(key)?.focus({ preventScroll: true }); }
}

// Read the page again and replace its live region. The results of a search are outside of this region.
export async function refresh() {
  const target = region();
  if (!target || target.dataset.live === "overview") { return; }
  const response = await fetch(location.href, { headers: { Accept: "text/html" }, credentials: "same-origin" });
  if (response.redirected && new URL(response.url).pathname === "/sign-in") { location.assign("/sign-in"); return; }
  if (!response.ok) { return; }
  const page = new DOMParser().parseFromString(await response.text(), "text/html");
  const found = page.querySelector("[data-live]");
  if (found && target.isConnected && found.innerHTML !== target.dataset.seen) {
    target.dataset.seen = found.innerHTML;
    for (const name of ["jobs", "aeTitles"]) { if (found.dataset[name] !== undefined) { target.dataset[name] = found.dataset[name]; } }
    replace(target, found.innerHTML);
  }
}

function isBusy(target) {
  return target.querySelector("input:checked, dialog[open]") !== null || target.contains(document.activeElement) && document.activeElement.matches("input, select, textarea");
}

function concerns(target, message) {
  const names = (text) => (text || "").split("\\").filter(Boolean); // an AE title may contain spaces, but no backslash
  if (target.dataset.watch === "all") { return message.events.length > 0; }
  return names(target.dataset.jobs).some((id) => message.jobs.includes(id)) || names(target.dataset.aeTitles).some((name) => message.aeTitles.includes(name));
}

// At most one refresh every two seconds.
function schedule() {
  changed = true;
  if (waiting !== null) { return; }
  const step = async () => {
    const target = region();
    if (changed && target && !isBusy(target)) {
      changed = false;
      await refresh().catch(() => undefined);
    }
    waiting = changed ? setTimeout(step, 2000) : null;
  };
  waiting = setTimeout(step, 150);
}

const RECEIVE = {
  overview(target, message) { if (message.html) { replace(target, message.html); } },
  changes(target, message) { if (concerns(target, message)) { schedule(); } },
  events(target, message) {
    const list = target.querySelector("ol.events");
    if (!list || message.more) { schedule(); return; }
    const last = Number(list.dataset.last || 0);
    if (message.number <= last) { return; }
    list.dataset.last = message.number;
    const { aeTitle, kind } = target.dataset;
    for (const row of [...message.rows].reverse()) {
      const template = document.createElement("template");
      template.innerHTML = row;
      const element = template.content.querySelector("li");
      if (Number(element.dataset.number) <= last || (aeTitle && element.dataset.aeTitle !== aeTitle) || (kind && element.dataset.kind !== kind)) { continue; }
      element.classList.add("new");
      showTimes(template.content);
      list.prepend(template.content);
    }
    while (list.children.length > 500) { list.lastElementChild.remove(); }
    target.querySelector(".empty")?.remove();
  },
};

function connect() {
  const target = region();
  if (!target || source || document.hidden) { return; }
  const topic = target.dataset.live;
  source = new EventSource(`/live/${topic}`);
  source.onopen = () => {
    state("on", "Live");
    // What changed between the answer with the page and this connection is in no message: read the page again.
    if (topic !== "overview" && target.dataset.watch !== "configuration") { schedule(); }
  };
  source.onmessage = (event) => {
    const message = JSON.parse(event.data);
    if (message.problem) { state("off", message.problem); return; }
    state("on", "Live");
    const now = region();
    if (now) { RECEIVE[topic](now, message); }
  };
  source.onerror = () => {
    state("off", "Connecting again");
    if (source && source.readyState === EventSource.CLOSED) { disconnect(); setTimeout(connect, 5000); refresh().catch(() => undefined); }
  };
}

function disconnect() {
  source?.close();
  source = null;
  state("off", "Not live");
}

export function keepLive() {
  connect();
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) { disconnect(); } else { connect(); refresh().catch(() => undefined); }
  });
  addEventListener("pagehide", disconnect); // a page in the back/forward cache must hold no connection
  addEventListener("pageshow", connect);
}
