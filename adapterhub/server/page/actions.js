// Buttons and dialogs to load, unload, pin and alias adapters.

import { post } from "./api.js";
import { byId, el, refill } from "./dom.js";
import { errorNotice, oneLine } from "./notices.js";

const TOAST_MS = 4000;

export function makeActions(store) {
  const toast = makeToast();
  const busy = new Set();
  let aliased = null;

  /** Make the buttons of one adapter; with the role use they are disabled and say why. */
  function buttons(adapter) {
    const { ref } = adapter;
    const loaded = adapter.loaded_as.length > 0;
    return [
      button(ref, loaded ? "Unload" : "Load", () => (loaded ? unload(adapter) : load(ref))),
      button(ref, adapter.pinned ? "Unpin" : "Pin", () => pin(adapter)),
      button(ref, "Alias", () => openAlias(adapter)),
    ];
  }

  function button(ref, text, act) {
    const allowed = store.manages;
    return el(
      "button",
      {
        type: "button",
        class: "compact",
        // a disabled button stays focusable, so that its reason is read
        "aria-disabled": allowed ? null : "true",
        "aria-describedby": allowed ? null : "role-note",
        "aria-label": `${text} ${ref}`,
        "data-key": `${text.replace(/^Un/i, "").toLowerCase()} ${ref}`,
        onclick: () => allowed && act(),
      },
      text,
    );
  }

  async function act(name, what, done) {
    if (busy.has(name)) return;
    busy.add(name);
    toast(`${name}: working…`, false);
    try {
      await what();
      refill(byId("adapters-notice"));
      toast(done);
    } catch (error) {
      toast("");
      refill(byId("adapters-notice"), errorNotice(error));
    } finally {
      busy.delete(name);
      await store.refresh();
    }
  }

  function load(ref) {
    return act(ref, () => post("v1/adapters/load", { ref }), `${ref} is loaded`);
  }

  function unload({ ref, loaded_as: names }) {
    const all = async () => {
      for (const name of names) await post("v1/adapters/unload", { name });
    };
    return act(ref, all, `${ref} is unloaded`);
  }

  function pin({ ref, pinned }) {
    const done = pinned ? `${ref} is unpinned` : `${ref} is pinned`;
    return act(ref, () => post("v1/adapters/pin", { ref, pinned: !pinned }), done);
  }

  function openAlias(adapter) {
    aliased = adapter.ref;
    byId("alias-of").textContent = `For ${adapter.ref}`;
    const known = new Set(store.adapters.filter((each) => each.name === adapter.name).flatMap((each) => each.aliases));
    refill(byId("alias-known"), [...known].map((value) => el("option", { value })));
    open("alias");
  }

  onSubmit("alias", async () => {
    const [alias, why] = [byId("alias-name").value.trim(), byId("alias-why").value.trim()];
    await post("v1/adapters/alias", { ref: aliased, alias, ...(why && { why }) });
    return `${alias} refers to ${aliased}`;
  });
  onSubmit("load", async () => {
    const [ref, name] = [byId("load-ref").value.trim(), byId("load-name").value.trim()];
    await post("v1/adapters/load", { ref, ...(name && { name }) });
    return `${ref} is loaded`;
  });
  byId("load-other").addEventListener("click", () => store.manages && open("load"));

  function onSubmit(name, send) {
    const form = byId(`${name}-form`);
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const submit = form.querySelector("[type=submit]");
      if (submit.disabled) return;
      submit.disabled = true;
      byId(`${name}-error`).textContent = "";
      try {
        toast(await send());
        byId(`${name}-dialog`).close();
        await store.refresh();
      } catch (error) {
        byId(`${name}-error`).textContent = oneLine(error);
      } finally {
        submit.disabled = false;
      }
    });
  }

  return { buttons };
}

function open(name) {
  byId(`${name}-form`).reset();
  byId(`${name}-error`).textContent = "";
  byId(`${name}-dialog`).showModal();
}

/** Make the function that shows a short message at the bottom, also for screen readers. */
function makeToast() {
  const place = byId("toast");
  let clearing = 0;
  return (text, fades = true) => {
    clearTimeout(clearing);
    place.textContent = text;
    if (fades) clearing = setTimeout(() => (place.textContent = ""), TOAST_MS);
  };
}
