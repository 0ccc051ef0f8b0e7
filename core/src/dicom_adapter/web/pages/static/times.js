// Show times in the zone of the browser, ages and countdowns. The server sends UTC in the attribute `datetime`.

const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const dayAndClock = new Intl.DateTimeFormat(undefined, {
  month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", second: "2-digit",
});
const relative = new Intl.RelativeTimeFormat(undefined, { numeric: "auto" });
const UNITS = [["year", 31557600], ["month", 2629800], ["week", 604800], ["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];

let offset = 0; // milliseconds by which the clock of the server is ahead of this one

export function setServerTime(text) {
  const at = Date.parse(text);
  if (!Number.isNaN(at)) { offset = at - Date.now(); }
}

function age(at, now) {
  const seconds = Math.round((at - now) / 1000);
  const [unit, size] = UNITS.find(([, size]) => Math.abs(seconds) >= size) || UNITS[UNITS.length - 1];
  return relative.format(Math.trunc(seconds / size), unit);
}

function remaining(at, now) {
  const seconds = Math.ceil((at - now) / 1000);
  if (seconds <= 0) { return "due now"; }
  const parts = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60];
  if (parts[0] > 0) { return `due in ${parts[0]} h ${parts[1]} min`; }
  return parts[1] > 0 ? `due in ${parts[1]} min ${parts[2]} s` : `due in ${parts[2]} s`;
}

function textOf(element, at, now) {
  switch (element.dataset.time) {
    case "ago": return age(at, now);
    case "countdown": return remaining(at, now);
    case "beside": return new Date(at).toDateString() === new Date(element.dataset.beside).toDateString() ? clock.format(at) : dayAndClock.format(at);
    case "clock": return new Date(at).toDateString() === new Date(now).toDateString() ? clock.format(at) : dayAndClock.format(at);
    default: return full.format(at);
  }
}

export function showTimes(root = document) {
  const now = Date.now() + offset;
  for (const element of root.querySelectorAll("time[data-time]")) {
    const at = Date.parse(element.dateTime);
    const text = textOf(element, at, now);
    if (element.textContent !== text) { element.textContent = text; }
    if (!element.title) { element.title = `${full.format(at)} (${element.dateTime})`; }
  }
}

export function keepTimes() {
  showTimes();
  setInterval(() => { if (!document.hidden) { showTimes(); } }, 1000);
}
