// The list of adapters with their task, metrics, size and residency.

import { makeActions } from "./actions.js";
import { byId, el, refill } from "./dom.js";
import { empty } from "./notices.js";
import { bytes, day, measure, shortDigest } from "./format.js";
import { classifies, generatesText, isLocal, tags } from "./store.js";

// from the slowest place to the fastest; the bar fills up towards the device
const RESIDENCY = ["remote", "disk", "host", "device"];
const SHOWN_METRICS = 2;
const ALL = "";

export function makeAdapters(store) {
  const actions = makeActions(store);
  const filter = byId("adapters-filter");
  const task = byId("adapters-task");
  let drawnState = null;

  function draw() {
    if (!store.loaded) {
      refill(byId("adapters-list"), !store.error && el("p", { class: "muted" }, "Loading…"));
      byId("adapters-summary").textContent = "";
      drawnState = null;
      return;
    }
    const state = JSON.stringify([store.adapters, store.me, filter.value, task.value]);
    if (state === drawnState) return;
    drawnState = state;
    drawTasks();
    const found = store.adapters.filter(matches);
    byId("adapters-summary").textContent = summary(store.adapters, found);
    drawRole();
    refill(byId("adapters-list"), list(found));
  }

  function drawTasks() {
    const chosen = task.value;
    const tasks = [...new Set(store.adapters.map((each) => each.task).filter(Boolean))].sort();
    refill(
      task,
      el("option", { value: ALL }, "All tasks"),
      tasks.map((each) => el("option", { value: each }, each)),
    );
    task.value = tasks.includes(chosen) ? chosen : ALL;
  }

  function drawRole() {
    const note = byId("role-note");
    note.hidden = store.manages;
    note.textContent =
      "Your API key has the role use. To load, pin or alias adapters, use a key with the role manage.";
    const other = byId("load-other");
    other.setAttribute("aria-disabled", String(!store.manages));
    if (store.manages) other.removeAttribute("aria-describedby");
    else other.setAttribute("aria-describedby", note.id);
  }

  function matches(adapter) {
    if (task.value !== ALL && adapter.task !== task.value) return false;
    const words = filter.value.toLowerCase().split(/\s+/).filter(Boolean);
    const text = [adapter.ref, adapter.task, adapter.digest, adapter.method, adapter.residency]
      .concat(adapter.aliases, adapter.labels)
      .join(" ")
      .toLowerCase();
    return words.every((word) => text.includes(word));
  }

  function list(found) {
    if (!store.adapters.length) {
      return empty(
        "No adapters yet",
        ["Train one with ", el("code", {}, "adapterhub train recipe.yaml"), ", or fetch one with ", el("code", {}, "adapterhub pull name"), "."],
        ["It then appears here. Until then, you can try the base model in the ", el("a", { href: "#playground" }, "playground"), "."],
      );
    }
    if (!found.length) {
      return empty("No matches", [
        "No adapter matches all of these words. ",
        el("button", { type: "button", class: "compact", onclick: clear }, "Clear the filter"),
      ]);
    }
    return table(found, actions);
  }

  function clear() {
    filter.value = "";
    task.value = ALL;
    draw();
    filter.focus();
  }

  filter.addEventListener("input", draw);
  task.addEventListener("change", draw);
  store.addEventListener("change", draw);
  return { show: draw };
}

function summary(all, found) {
  const resident = all.filter((each) => each.residency === "device").length;
  const total = `${all.length} ${all.length === 1 ? "version" : "versions"}, ${resident} on the device`;
  return found.length === all.length ? total : `${found.length} of ${total}`;
}

function table(found, actions) {
  // explicit roles, since a narrow screen shows the table as cards
  return el(
    "table",
    { class: "adapters", role: "table", "aria-label": "Adapters" },
    el(
      "thead",
      { role: "rowgroup" },
      el(
        "tr",
        { role: "row" },
        ["Adapter", "Task", "Metrics", "Size", "Residency", "Actions"].map((title) =>
          el("th", { role: "columnheader", scope: "col" }, title),
        ),
      ),
    ),
    el("tbody", { role: "rowgroup" }, found.map((adapter) => row(adapter, actions))),
  );
}

function row(adapter, actions) {
  const cell = (name, ...content) => el("td", { role: "cell", "data-name": name }, content);
  return el(
    "tr",
    { role: "row", "data-ref": adapter.ref },
    el("th", { role: "rowheader", scope: "row" }, nameOf(adapter)),
    cell("Task", el("div", {}, adapter.task), labelsOf(adapter)),
    cell("Metrics", metricsOf(adapter)),
    cell("Size", el("div", { class: "num" }, adapter.size_bytes ? bytes(adapter.size_bytes) : "–"), el("div", { class: "muted small method" }, methodOf(adapter))),
    cell("Residency", residency(adapter)),
    cell("Actions", el("div", { class: "row-actions" }, isLocal(adapter) ? [use(adapter), actions.buttons(adapter)] : el("span", { class: "muted small" }, "downloading"))),
  );
}

function nameOf(adapter) {
  const made = day(adapter.created);
  return [
    el(
      "div",
      { class: "adapter-name" },
      el("span", { class: "mono" }, adapter.name, adapter.version !== null && el("span", { class: "muted" }, `@${adapter.version}`)),
      adapter.aliases.map((alias) => el("span", { class: "chip alias" }, alias)),
    ),
    el(
      "div",
      { class: "muted small" },
      el("span", { class: "mono", title: adapter.digest || null }, shortDigest(adapter.digest)),
      made && ` · ${made}`,
    ),
  ];
}

function labelsOf(adapter) {
  const labels = tags(adapter) ? entityTypes(adapter.labels) : adapter.labels;
  if (!labels.length) return null;
  const some = labels.slice(0, 4).join(", ");
  const more = labels.length - 4;
  return el("div", { class: "muted small" }, more > 0 ? `${some} and ${more} more` : some);
}

// B-PER and I-PER are both PER, and O is no entity
function entityTypes(labels) {
  return [...new Set(labels.filter((label) => label !== "O").map((label) => label.replace(/^[BI]-/, "")))];
}

function methodOf(adapter) {
  return adapter.rank ? `${adapter.method}, rank ${adapter.rank}` : (adapter.method ?? "");
}

function metricsOf(adapter) {
  const metrics = Object.entries(adapter.metrics);
  if (!metrics.length) return el("span", { class: "muted" }, "not measured");
  const [shown, rest] = [metrics.slice(0, SHOWN_METRICS), metrics.slice(SHOWN_METRICS)];
  const line = ([name, value]) =>
    el("div", { class: "metric" }, el("span", { class: "num" }, measure(value)), " ", el("span", { class: "muted small" }, name));
  if (!rest.length) return shown.map(line);
  return [
    shown.map(line),
    el("details", { class: "small" }, el("summary", {}, `${rest.length} more`), rest.map(line)),
  ];
}

function residency(adapter) {
  const level = RESIDENCY.indexOf(adapter.residency);
  return [
    el(
      "div",
      { class: "residency", "data-level": adapter.residency },
      el("span", { class: "steps", "aria-hidden": "true" }, RESIDENCY.map((_, index) => el("i", { class: index <= level ? "on" : null }))),
      adapter.residency,
    ),
    adapter.pinned && el("span", { class: "chip" }, "pinned"),
    // the buttons show that it is loaded by its own name
    adapter.loaded_as.filter((name) => name !== adapter.ref).map((name) => el("span", { class: "muted small as" }, "as ", el("code", {}, name))),
  ];
}

function use(adapter) {
  const to = (view) => `#${view}?ref=${encodeURIComponent(adapter.ref)}`;
  const button = (view, text) =>
    el("a", { class: "button", href: to(view), "data-key": `${view} ${adapter.ref}`, "aria-label": `${text} ${adapter.ref}` }, text);
  const view = generatesText(adapter) ? "playground" : classifies(adapter) || tags(adapter) ? "label" : null;
  return [view && button(view, "Try"), button("report", "Report")];
}
