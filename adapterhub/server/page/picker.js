// The model of a column: adapters with a slider for the weight of each.

import { el, refill } from "./dom.js";

const MAX_PARTS = 4;
const MAX_WEIGHT = 2;
const STEP = 0.05;

/** Make the picker of one column; `key` distinguishes its controls from those of others. */
export function makePicker(adapters, chosen, key) {
  const parts = [{ ref: chosen, weight: 1 }];
  const rows = el("div", { class: "parts" });
  const formula = el("output", { class: "formula mono", "aria-label": "Model" });
  const more = el("button", { type: "button", class: "compact", onclick: blend, "data-key": `${key} more`, "aria-label": "Blend with another adapter" }, "Blend");
  const node = el("div", { class: "picker" }, rows, formula);

  function draw() {
    refill(rows, parts.map(partRow));
    more.hidden = parts.length >= Math.min(MAX_PARTS, blendable().length);
    showFormula();
  }

  function showFormula() {
    formula.textContent = expression(parts) ?? "Set a weight above 0";
    formula.classList.toggle("wrong", expression(parts) === null);
    // one adapter of weight 1 needs no formula
    formula.hidden = parts.length === 1 && parts[0].weight === 1;
  }

  function partRow(part, index) {
    const weight = el("output", { class: "num weight" }, weightText(part.weight));
    const slider = el("input", {
      type: "range", min: 0, max: MAX_WEIGHT, step: STEP, value: String(part.weight),
      "aria-label": `Weight of ${part.ref}`,
      "data-key": `${key} weight ${index}`,
      oninput: () => {
        part.weight = Number(slider.value);
        weight.textContent = weightText(part.weight);
        showFormula();
      },
    });
    slider.value = String(part.weight);
    return el(
      "div",
      { class: "part" },
      el("div", { class: "part-name" }, select(part, index), parts.length > 1 && removeButton(part, index)),
      el("div", { class: "part-weight" }, slider, weight),
    );
  }

  function select(part, index) {
    const options = grouped(index ? blendable() : adapters());
    // an adapter that was removed stays selected, and the server reports it
    if (!adapters().some((each) => each.ref === part.ref)) options.push(el("option", { value: part.ref }, part.ref));
    const node = el("select", { "aria-label": "Adapter", "data-key": `${key} adapter ${index}`, onchange: () => {
      part.ref = node.value;
      // a blend has one backbone
      if (!index) parts.splice(1, MAX_PARTS, ...parts.slice(1).filter((each) => blendable().some(({ ref }) => ref === each.ref)));
      draw();
    } }, options);
    node.value = part.ref;
    return node;
  }

  /** The adapters of the backbone of the first part. */
  function blendable() {
    const first = adapters().find((each) => each.ref === parts[0].ref);
    return adapters().filter((each) => each.backbone === first?.backbone);
  }

  function removeButton(part, index) {
    const remove = () => {
      parts.splice(index, 1);
      draw();
      rows.querySelector("select").focus();
    };
    return el("button", { type: "button", class: "compact icon", "aria-label": `Remove ${part.ref} from the blend`, onclick: remove }, "×");
  }

  function blend() {
    const other = blendable().find((each) => !parts.some((part) => part.ref === each.ref));
    if (!other) return;
    parts.push({ ref: other.ref, weight: 1 });
    const share = Math.round(100 / parts.length) / 100;
    for (const part of parts) part.weight = Math.round(share / STEP) * STEP;
    draw();
    rows.lastElementChild.querySelector("select").focus();
  }

  draw();
  return {
    node,
    more,
    draw,
    /** The model, or null if no adapter has a weight. */
    model: () => expression(parts),
    choose: (ref) => {
      parts.splice(0, parts.length, { ref, weight: 1 });
      draw();
    },
  };
}

/** Return the options of adapters, in groups by backbone where there are several. */
function grouped(adapters) {
  const groups = Map.groupBy(adapters, (each) => each.backbone);
  if (groups.size < 2) return adapters.map(option);
  return [...groups].map(([backbone, own]) => el("optgroup", { label: backbone }, own.map(option)));
}

function option({ ref, aliases }) {
  return el("option", { value: ref }, aliases.length ? `${ref} (${aliases.join(", ")})` : ref);
}

/**
 * Return a blend such as `a@1*0.7+b@2*0.3`. Parts without weight are left out, and a single part
 * of weight 1 is the adapter itself. Null if no part has a weight, which is not the base model.
 * @param {{ref: string, weight: number}[]} parts
 */
export function expression(parts) {
  const weighted = parts.filter((part) => part.weight > 0);
  if (!weighted.length) return null;
  if (weighted.length === 1 && weighted[0].weight === 1) return weighted[0].ref;
  return weighted.map((part) => `${part.ref}*${weightText(part.weight)}`).join("+");
}

/** Format a weight with at most two decimals. */
export function weightText(weight) {
  return String(Math.round(weight * 100) / 100);
}
