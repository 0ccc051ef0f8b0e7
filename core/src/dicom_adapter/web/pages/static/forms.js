// Forms that are sent in the body of a request, so that nothing that identifies a patient is part of an address.

import { note, send } from "./changes.js";
import { replace } from "./live.js";

async function search(form) {
  const target = document.getElementById(form.dataset.into);
  target.setAttribute("aria-busy", "true");
  try {
    const response = await send("POST", form.dataset.search, Object.fromEntries(new FormData(form)));
    const found = await response.json();
    if (found.goTo) { location.assign(found.goTo); return; }
    replace(target, found.html);
  } catch (failure) {
    note(failure.message, "bad");
  } finally {
    target.removeAttribute("aria-busy");
  }
}

// Show the last lines of a job's log. They are loaded on request only, because the log may be on the platform.
async function showLog(button) {
  const target = document.getElementById(button.getAttribute("aria-controls"));
  button.disabled = true;
  try {
    const response = await fetch(button.dataset.log, { headers: { Accept: "text/html" }, credentials: "same-origin" });
    replace(target, await response.text());
  } catch (failure) {
    note(failure.message, "bad");
  } finally {
    button.disabled = false;
  }
}

// Set the ids of the chosen rows as the body of the requests that the buttons of a selection send.
function updateSelection(form) {
  const chosen = [...form.querySelectorAll('input[name="id"]:checked')].map((input) => Number(input.value));
  for (const button of form.querySelectorAll("button[data-ids]")) {
    button.disabled = chosen.length === 0;
    button.dataset.body = JSON.stringify({ ids: chosen });
  }
  const count = form.querySelector(".chosen");
  if (count) { count.textContent = `${chosen.length} selected`; }
}

export function listenForForms() {
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.dataset.search) { event.preventDefault(); search(form); }
  });
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-log]");
    if (button) { showLog(button); }
  });
  document.addEventListener("change", (event) => {
    const form = event.target.closest("form");
    if (form?.dataset.filter !== undefined) { form.requestSubmit(); }
    if (event.target.matches("input[data-all]")) {
      for (const input of form.querySelectorAll('input[name="id"]')) { input.checked = event.target.checked; }
    }
    if (form?.dataset.selection !== undefined) { updateSelection(form); }
  });
}
