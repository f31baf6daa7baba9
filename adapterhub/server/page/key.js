// The API key: kept by the tab, in sessionStorage, and nowhere else.

import { byId } from "./dom.js";

const PLACE = "adapterhub.key";

export function key() {
  return sessionStorage.getItem(PLACE);
}

/** Wire the dialog; `changed` is called after a key was given or forgotten. */
export function bindKeyDialog(changed) {
  const dialog = byId("key-dialog");
  byId("key-open").addEventListener("click", openKeyDialog);
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("key-input").value.trim();
    // a header can carry no other characters, and fetch would only say "failed"
    if (!/^[\x21-\x7e]+$/.test(given)) {
      byId("key-error").textContent = "A key has no spaces and no letters beyond ASCII. Copy it again.";
      return;
    }
    sessionStorage.setItem(PLACE, given);
    dialog.close();
    changed();
  });
  byId("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(PLACE);
    dialog.close();
    changed();
  });
}

export function openKeyDialog() {
  const has = key() !== null;
  byId("key-state").textContent = has ? "This tab has a key." : "This tab has no key.";
  byId("key-forget").hidden = !has;
  byId("key-error").textContent = "";
  byId("key-input").value = "";
  byId("key-dialog").showModal();
  byId("key-input").focus();
}
