// One text or image, processed by classifiers, taggers and extractive question answering.

import { post } from "./api.js";
import { byId, el, refill } from "./dom.js";
import { empty, errorNotice } from "./notices.js";
import { shortDigest } from "./format.js";
import { bars, marked } from "./results.js";
import { answers, classifies, readsImages, tags } from "./store.js";

export function makeLabel(store) {
  const form = byId("label-form");
  const results = byId("label-results");
  const chosen = new Set();
  let drawnState = null;
  let busy = false;
  const usable = () => store.adapters.filter((each) => classifies(each) || tags(each) || answers(each) || readsImages(each));

  function show(params) {
    const ref = params?.get("ref");
    if (ref) {
      chosen.clear();
      chosen.add(ref);
      drawnState = null;
    }
    draw();
  }

  function draw() {
    if (!store.loaded) return;
    const state = JSON.stringify(usable().map((each) => [each.ref, each.aliases]));
    if (state === drawnState) return;
    drawnState = state;
    const known = new Set(usable().map((each) => each.ref));
    for (const ref of chosen) if (!known.has(ref)) chosen.delete(ref);
    if (!chosen.size && usable().length) chosen.add(usable()[0].ref);
    byId("label-go").disabled = !usable().length;
    byId("label-question").closest("label").hidden = !usable().some(answers);
    requireFields();
    refill(
      byId("label-choices"),
      usable().length ? usable().map(choice) : empty("No suitable adapter", ["Train one with a recipe whose task is ", el("code", {}, "text-classification"), " or ", el("code", {}, "token-classification"), "."]),
    );
  }

  function choice(adapter) {
    const box = el("input", {
      type: "checkbox",
      "data-key": adapter.ref,
      checked: chosen.has(adapter.ref),
      onchange: () => {
        if (box.checked) chosen.add(adapter.ref);
        else chosen.delete(adapter.ref);
        requireFields();
      },
    });
    return el(
      "label",
      { class: "choice" },
      box,
      el("span", { class: "mono" }, adapter.ref),
      adapter.aliases.map((alias) => el("span", { class: "chip alias" }, alias)),
      el("span", { class: "muted small" }, kindOf(adapter)),
    );
  }

  // adapters of one backbone read texts, those of another images
  function requireFields() {
    const refs = usable().filter((each) => !chosen.size || chosen.has(each.ref));
    requireField(byId("label-text"), !refs.length || refs.some((each) => !readsImages(each)));
    requireField(byId("label-image"), refs.some(readsImages));
  }

  async function labelAll() {
    if (busy || !form.reportValidity()) return;
    if (!chosen.size) {
      refill(byId("label-notice"), el("p", { class: "notice warn", role: "alert" }, "Choose at least one adapter."));
      return;
    }
    // the offsets refer to the text as it was sent
    const text = byId("label-text").value;
    const refs = usable().filter((each) => chosen.has(each.ref));
    const [file] = byId("label-image").files;
    const question = byId("label-question").value.trim();
    if (refs.some(answers) && !question) {
      refill(byId("label-notice"), el("p", { class: "notice warn", role: "alert" }, "Enter a question to answer from the text."));
      return;
    }
    busy = true;
    byId("label-go").disabled = true;
    results.setAttribute("aria-busy", "true");
    try {
      const found = await Promise.all([
        call("v1/classify", refs.filter(classifies), text),
        call("v1/tag", refs.filter(tags), text),
        call("v1/answer", refs.filter(answers), { question, context: text }),
        refs.some(readsImages) ? call("v1/classify", refs.filter(readsImages), { image: await dataUrl(file) }) : [],
      ]);
      refill(byId("label-notice"));
      refill(results, found.flat().map((item) => panel(item, text)));
    } catch (error) {
      refill(results);
      refill(byId("label-notice"), errorNotice(error, labelAll));
    } finally {
      busy = false;
      byId("label-go").disabled = false;
      results.setAttribute("aria-busy", "false");
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    labelAll();
  });
  byId("label-text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) labelAll();
  });
  store.addEventListener("change", draw);
  return { show };
}

/** Show and require a field, or hide it. */
function requireField(field, wanted) {
  field.required = wanted;
  field.closest("label").hidden = !wanted;
}

/** Read a file as a data: URL. */
function dataUrl(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.addEventListener("load", () => resolve(reader.result));
    reader.addEventListener("error", () => reject(reader.error));
    reader.readAsDataURL(file);
  });
}

async function call(path, adapters, input) {
  if (!adapters.length) return [];
  const items = adapters.map((each) => ({ model: each.ref, input }));
  return (await post(path, { items })).data;
}

function panel(item, text) {
  return el(
    "article",
    { class: "panel result", "aria-label": item.model },
    el(
      "header",
      {},
      el("h2", { class: "mono" }, item.model),
      el("span", { class: "muted small mono", title: item.digest }, shortDigest(item.digest)),
    ),
    item.scores ? bars(item) : marked(text, item.spans ?? answerOf(item)),
  );
}

function kindOf(adapter) {
  if (answers(adapter)) return "answers questions";
  if (readsImages(adapter)) return "classifies images";
  return tags(adapter) ? "tags spans" : "classifies texts";
}

// a span as those of a tagger; none if the text has no answer
function answerOf({ answer, start, end, score }) {
  return answer === null ? [] : [{ label: "answer", text: answer, start, end, score }];
}
