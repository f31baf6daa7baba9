// Elements. All text becomes text nodes; nothing is parsed as markup.

/**
 * Make an element.
 * @param {string} tag
 * @param {Object} options attributes; `class`, `onclick` and the like (functions only) and
 *   `value`, `checked`, `disabled`, `hidden` as properties; null and false are left out.
 * @param {...(Node|string|number|null|Array)} children
 */
export function el(tag, options = {}, ...children) {
  return fill(document.createElement(tag), options, children);
}

/** Make an SVG element; see `el`. */
export function svg(tag, options = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), options, children);
}

export function byId(id) {
  return document.getElementById(id);
}

function fill(node, options, children) {
  for (const [name, value] of Object.entries(options)) {
    if (value === null || value === undefined || value === false) continue;
    if (typeof value === "function") node.addEventListener(name.slice(2), value);
    else if (PROPERTIES.has(name)) node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

const PROPERTIES = new Set(["value", "checked", "disabled", "hidden", "selected"]);

/** Replace the children of an element and restore the focus (by `data-key`). */
export function refill(parent, ...children) {
  const focused = parent.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  parent.replaceChildren(...children.flat(Infinity).filter((child) => child));
  if (focused) parent.querySelector(`[data-key="${CSS.escape(focused)}"]`)?.focus();
}

/** Return the class of a colour. */
export function hue(index) {
  return `hue-${index % 5}`;
}
