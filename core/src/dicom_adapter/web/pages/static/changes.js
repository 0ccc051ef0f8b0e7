// Send changes to the API with the CSRF token. Ask a question before, and show the outcome afterwards.

const csrf = () => document.querySelector('meta[name="csrf-token"]')?.content || "";

export async function send(method, url, body) {
  const headers = { Accept: "application/json", "X-CSRF-Token": csrf() };
  const options = { method, headers, credentials: "same-origin" };
  if (body !== undefined) {
    headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  const response = await fetch(url, options);
  if (response.status === 401) {
    location.assign("/sign-in");
    throw new Error("Sign in again.");
  }
  if (!response.ok) {
    let text = `${response.status} ${response.statusText}`;
    try { text = (await response.json()).detail || text; } catch (_noJson) { /* keep the status */ }
    throw new Error(text);
  }
  return response;
}

export function note(text, kind = "good") {
  const element = document.createElement("p");
  element.className = `toast ${kind}`;
  element.textContent = text;
  document.getElementById("notes").append(element);
  setTimeout(() => element.remove(), kind === "bad" ? 12000 : 5000);
}

export function ask(text) {
  const dialog = document.getElementById("question");
  dialog.querySelector("#question-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// The results of a change of several objects: what was done, and what was refused with the reasons.
async function report(response, done) {
  let result = null;
  try { result = await response.clone().json(); } catch (_noJson) { /* no content */ }
  const refused = Object.entries(result?.refused || {});
  for (const [name, why] of refused) { note(`${name}: ${why}`, "bad"); }
  if (!refused.length || Object.values(result).some((value) => Array.isArray(value) && value.length)) { note(done || "Done"); }
}

async function change(button, refresh) {
  const { method, url, question, done, next } = button.dataset;
  if (question && !(await ask(question))) { return; }
  button.disabled = true;
  try {
    const body = button.dataset.body === undefined ? undefined : JSON.parse(button.dataset.body);
    const response = await send(method, url, body);
    if (next) { location.assign(next); return; }
    await report(response, done);
    await refresh();
  } catch (failure) {
    note(failure.message, "bad");
  } finally {
    button.disabled = false;
  }
}

export function listenForChanges(refresh) {
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-method]");
    if (button) { change(button, refresh); }
  });
}
