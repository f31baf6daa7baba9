// The API key, stored in sessionStorage until the tab is closed.

import { byId } from "./dom.js";

const STORAGE_KEY = "adapterhub.key";

export function key() {
  return sessionStorage.getItem(STORAGE_KEY);
}

/** Bind the dialog; `changed` is called after a key was set or removed. */
export function bindKeyDialog(changed) {
  const dialog = byId("key-dialog");
  byId("key-open").addEventListener("click", openKeyDialog);
  byId("key-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const given = byId("key-input").value.trim();
    // headers can't have other characters, and the error of fetch does not say so
    if (!/^[\x21-\x7e]+$/.test(given)) {
      byId("key-error").textContent = "An API key has only ASCII characters and no spaces. Copy it again.";
      return;
    }
    sessionStorage.setItem(STORAGE_KEY, given);
    dialog.close();
    changed();
  });
  byId("key-forget").addEventListener("click", () => {
    sessionStorage.removeItem(STORAGE_KEY);
    dialog.close();
    changed();
  });
}

export function openKeyDialog() {
  const has = key() !== null;
  byId("key-state").textContent = has ? "This tab uses an API key." : "This tab uses no API key.";
  byId("key-forget").hidden = !has;
  byId("key-error").textContent = "";
  byId("key-input").value = "";
  byId("key-dialog").showModal();
  byId("key-input").focus();
}
