// One prompt, answered side by side by the base model and up to four adapters or blends.

import { makeAnswer } from "./answer.js";
import { byId, el, hue, refill } from "./dom.js";
import { empty } from "./notices.js";
import { makePicker } from "./picker.js";
import { generatesText } from "./store.js";

const MAX_COLUMNS = 4;
const SEEDS = 2 ** 31;

export function makePlayground(store) {
  const columns = [];
  const base = makeAnswer();
  const form = byId("play-form");
  const add = byId("play-add");
  // number of running streams, which one signal stops
  let streams = 0;
  let stopping = new AbortController();
  let added = 0;
  let started = false;
  const usable = () => (store.generates ? store.adapters.filter(generatesText) : []);

  function show(params) {
    start();
    const ref = params?.get("ref");
    if (ref && !streams && store.generates) {
      if (columns.length) columns[0].picker.choose(ref);
      else addColumn(ref);
      draw();
    }
  }

  // the first column is added when the adapters are loaded
  function start() {
    if (!started && store.loaded) {
      started = true;
      if (!columns.length && usable().length) addColumn(usable()[0].ref);
    }
    draw();
  }

  function addColumn(ref) {
    added += 1;
    columns.push({ picker: makePicker(usable, ref, `column ${added}`), answer: makeAnswer(), hue: freeHue() });
  }

  function freeHue() {
    return [1, 2, 3, 4].find((each) => !columns.some((column) => column.hue === each));
  }

  function draw() {
    const full = columns.length >= MAX_COLUMNS;
    byId("play-add-reason").textContent = full ? "Four columns beside the base model are the maximum." : "";
    updateControls();
    if (!store.loaded) return;
    if (!store.generates) {
      refill(byId("play-columns"), empty("This backbone does not generate text", ["The backbone ", el("code", {}, store.backbone), " is an encoder. ", el("a", { href: "#label" }, "Label an input"), " instead."]));
      return;
    }
    refill(
      byId("play-columns"),
      baseColumn(),
      columns.map(adapterColumn),
      !usable().length && empty("No adapter that generates text", ["Train one with a recipe whose task is ", el("code", {}, "dialogue"), ", for example."]),
    );
  }

  function baseColumn() {
    return el(
      "article",
      { class: `column ${hue(0)}`, "aria-label": "Base model" },
      el("header", {}, el("h3", {}, "Base model")),
      el("p", { class: "mono base-name" }, store.backbone ?? "no backbone"),
      base.node,
    );
  }

  function adapterColumn(column, index) {
    const letter = "ABCD"[index];
    const remove = () => {
      columns.splice(columns.indexOf(column), 1);
      draw();
      add.focus();
    };
    return el(
      "article",
      { class: `column ${hue(column.hue)}`, "aria-label": `Column ${letter}` },
      el(
        "header",
        {},
        el("h3", {}, letter),
        column.picker.more,
        el("button", { type: "button", class: "compact icon", "aria-label": `Remove column ${letter}`, onclick: remove, disabled: streams > 0 }, "×"),
      ),
      column.picker.node,
      column.answer.node,
    );
  }

  async function answerAll() {
    if (streams || !store.backbone || !store.generates || !form.reportValidity()) return;
    const requests = [{ model: store.backbone, answer: base, name: "Base model" }];
    for (const [index, { picker, answer }] of columns.entries()) {
      requests.push({ model: picker.model(), answer, name: `Column ${"ABCD"[index]}` });
    }
    if (requests.some((each) => each.model === null)) return showStatus("A blend needs a weight above 0.");
    const settings = readSettings();
    showStatus("Generating.");
    const outcomes = await Promise.all(requests.map((each) => send(each, settings)));
    showStatus(requests.map((each, index) => `${each.name} ${outcomes[index]}`).join(", "));
  }

  async function send(each, settings) {
    if (!streams) stopping = new AbortController();
    streams += 1;
    updateControls();
    const { path, body } = request(each.model, settings);
    const again = () => send(each, settings);
    const outcome = await each.answer.request({ path, body, signal: stopping.signal, again });
    streams -= 1;
    updateControls();
    return outcome;
  }

  // the columns are not replaced, so that the focus stays
  function updateControls() {
    const [go, stop] = [byId("play-go"), byId("play-stop")];
    const busy = streams > 0;
    const [from, to] = busy ? [go, stop] : [stop, go];
    const moves = document.activeElement === from;
    go.disabled = busy || !store.backbone || !store.generates;
    stop.disabled = !busy;
    // a disabled button loses the focus
    if (moves) to.focus({ preventScroll: true });
    add.disabled = busy || columns.length >= MAX_COLUMNS || !usable().length;
    for (const button of byId("play-columns").querySelectorAll("header button")) button.disabled = busy;
  }

  function showStatus(text) {
    byId("play-status").textContent = text;
  }

  function stop() {
    stopping.abort();
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    answerAll();
  });
  byId("play-stop").addEventListener("click", stop);
  byId("view-playground").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      answerAll();
    } else if (event.key === "Escape") stop();
  });
  add.addEventListener("click", () => {
    const taken = new Set(columns.map((column) => column.picker.model()));
    const ref = (usable().find((each) => !taken.has(each.ref)) ?? usable()[0]).ref;
    addColumn(ref);
    draw();
    byId("play-columns").lastElementChild.querySelector("select").focus();
  });
  store.addEventListener("change", () => {
    if (streams) return;
    for (const { picker } of columns) picker.draw();
    start();
  });
  return { show };
}

function readSettings() {
  const seed = byId("play-seed").value;
  return {
    prompt: byId("play-prompt").value,
    system: byId("play-system").value.trim(),
    chat: byId("play-form-kind").value === "chat",
    sampling: {
      max_tokens: Number(byId("play-max").value),
      temperature: Number(byId("play-temperature").value),
      // the same for all columns, so that they differ only by their adapters
      seed: seed === "" ? Math.floor(Math.random() * SEEDS) : Number(seed),
    },
  };
}

function request(model, { prompt, system, chat, sampling }) {
  if (!chat) return { path: "v1/completions", body: { model, prompt, ...sampling } };
  const messages = [{ role: "user", content: prompt }];
  if (system) messages.unshift({ role: "system", content: system });
  return { path: "v1/chat/completions", body: { model, messages, ...sampling } };
}
