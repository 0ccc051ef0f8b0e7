// Compare the configuration file with the running service, show the plan, and apply it.

import { ask, note, send } from "./changes.js";

function line(kind, text) {
  const element = document.createElement("li");
  element.className = kind;
  element.textContent = text;
  return element;
}

const describe = (change) =>
  change.secret ? `${change.key}: the secret has changed` : `${change.key}: ${change.before ?? "not set"} → ${change.after ?? "not set"}`;

function* tableLines(title, tables) {
  for (const name of tables.added) { yield line("added", `+ ${title} ${name}`); }
  for (const name of tables.removed) { yield line("removed", `− ${title} ${name}`); }
  for (const [name, changes] of Object.entries(tables.changed)) {
    for (const change of changes) { yield line("changed", `~ ${title} ${name}: ${describe(change)}`); }
  }
}

function* planLines(plan) {
  yield* tableLines("AE title", plan.aeTitles);
  yield* tableLines("submitter", plan.submitters);
  for (const change of plan.settings) { yield line("changed", `~ ${describe(change)}`); }
  for (const change of plan.plugins) { yield line("changed", `~ plugin ${describe(change)} (the host process is restarted)`); }
  for (const change of plan.needsRestart) { yield line("removed", `! ${describe(change)} (needs a restart of the service)`); }
}

function paragraph(kind, text) {
  const element = document.createElement("p");
  element.className = kind;
  element.textContent = text;
  return element;
}

function applyControls(plan, show) {
  const row = document.createElement("div");
  row.className = "row";
  let policy = null;
  if (plan.aeTitles.removed.length || plan.submitters.removed.length) {
    const label = document.createElement("label");
    label.className = "field";
    label.textContent = "Open work of what is removed";
    policy = document.createElement("select");
    policy.append(new Option("Keep until it is configured again", "keep"), new Option("Finish it first (drain)", "drain"));
    label.append(policy);
    row.append(label);
  }
  const button = document.createElement("button");
  button.type = "button";
  button.id = "apply";
  button.className = "button primary";
  button.textContent = "Apply";
  button.addEventListener("click", async () => {
    if (!(await ask("Apply the configuration file to the running service?"))) { return; }
    button.disabled = true;
    button.textContent = "Applying …";
    try {
      const response = await send("POST", "/api/configuration/apply", { removed: policy ? policy.value : "keep" });
      await show(await response.json());
    } catch (failure) {
      note(failure.message, "bad");
      button.disabled = false;
      button.textContent = "Apply";
    }
  });
  row.append(button);
  return row;
}

// Applying may take longer than the request: ask until the service has applied or refused the newest configuration.
async function waitUntilApplied() {
  for (let tries = 0; tries < 300; tries += 1) {
    await new Promise((resolve) => { setTimeout(resolve, 1000); });
    // While the service applies the file, its HTTP server may restart.
    const response = await fetch("/api/configuration", { headers: { Accept: "application/json" }, credentials: "same-origin" }).catch(() => null);
    const newest = response?.ok ? (await response.json()).newest : null;
    if (newest && newest.state === "running") { return paragraph("note calm", `Applied as configuration ${newest.number}.`); }
    if (newest && newest.state === "refused") { return paragraph("note bad", `Configuration ${newest.number} was refused: ${newest.reason}`); }
  }
  return paragraph("note bad", "The service has not applied the file yet. The overview shows its state.");
}

export function listenForPlans(refresh) {
  document.addEventListener("click", async (event) => {
    const compare = event.target.closest("button[data-plan]");
    if (!compare) { return; }
    const target = document.getElementById(compare.getAttribute("aria-controls"));
    const show = async (found) => {
      target.replaceChildren(...found.problems.map((text) => paragraph("note bad", text)));
      if (found.applied !== null || found.isFinished === false) {
        target.append(paragraph("note calm", found.applied === null ? "The service is still applying the file." : `Applied as configuration ${found.applied}.`));
        if (found.applied === null) { target.replaceChildren(await waitUntilApplied()); }
        await refresh();
        return;
      }
      if (!found.plan) { return; }
      const lines = [...planLines(found.plan)];
      if (!lines.length) { target.append(paragraph("muted", "No changes: the service already uses this configuration.")); return; }
      const list = document.createElement("ul");
      list.className = "diff";
      list.append(...lines);
      target.append(list);
      if (!found.plan.needsRestart.length && !found.problems.length) { target.append(applyControls(found.plan, show)); }
    };
    compare.disabled = true;
    target.replaceChildren(paragraph("muted", "Comparing …"));
    try {
      await show(await (await send("POST", compare.dataset.plan)).json());
    } catch (failure) {
      target.replaceChildren(paragraph("note bad", failure.message));
    } finally {
      compare.disabled = false;
    }
  });
}
