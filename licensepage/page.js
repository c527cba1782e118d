"use strict";
// Sends forms and shows what changed without a reload: the focus stays where it is, and screen
// readers hear what is new. Everything works without this, too.
const live = document.getElementById("live");
const sending = new Set(); // buttons of forms that are under way: a second click does nothing
let away = ""; // the id of what had the focus, and went away
let end = 0; // of a wait

const page = () => document.getElementById("page");

function clock(seconds) {
  return Math.floor(seconds / 60) + ":" + String(seconds % 60).padStart(2, "0");
}

// morph makes an element look like another and keeps what is the same in both, so that the
// focus and what was typed stay. What a person opened isn't closed.
function morph(from, to) {
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !(name === "open" && from.localName === "details")) {
      from.removeAttribute(name);
    }
  }
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) {
      from.setAttribute(name, value);
    }
  }
  let at = from.firstChild;
  for (const next of [...to.childNodes]) {
    const same = counterpart(at, next);
    if (same === null) {
      from.insertBefore(document.importNode(next, true), at);
      continue;
    }
    while (at !== same) {
      const gone = at;
      at = at.nextSibling;
      gone.remove();
    }
    if (same.nodeType === Node.ELEMENT_NODE) {
      morph(same, next);
    } else if (same.data !== next.data) {
      same.data = next.data;
    }
    at = same.nextSibling;
  }
  while (at !== null) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

// counterpart is what an element replaces: the one with its id, or else whatever stands there
// and is of its kind.
function counterpart(at, next) {
  if (next.id) {
    while (at !== null && at.id !== next.id) {
      at = at.nextSibling;
    }
    return at;
  }
  return at !== null && !at.id && at.nodeName === next.nodeName ? at : null;
}

// focus moves the focus to an element, if there is one that can be seen.
function focus(id) {
  const element = document.getElementById(id);
  element?.focus();
  return element !== null && document.activeElement === element;
}

function said() {
  return ["headline", "words", "notice"].map((id) => document.getElementById(id)?.innerText ?? "");
}

function announce(text) {
  live.textContent = "";
  setTimeout(() => { live.textContent = text; }, 50); // a text that is the same is said again
}

function prepare() {
  // The live region speaks for it.
  document.getElementById("notice")?.removeAttribute("role");
  const left = document.getElementById("left");
  end = left === null ? 0 : Date.now() + 1000 * left.dataset.seconds;
}

// show takes over a page that the program sent. own says that a person caused it.
function show(text, own) {
  const fresh = new DOMParser().parseFromString(text, "text/html");
  const next = fresh.getElementById("page");
  if (next === null) {
    return;
  }
  const before = said();
  const typed = [...document.querySelectorAll("input[id], textarea[id]")].filter((e) => e.value !== e.defaultValue && e.type !== "file");
  const focused = document.activeElement;
  const id = focused?.id ?? "";
  document.title = fresh.title;
  document.documentElement.dataset.version = fresh.documentElement.dataset.version;
  morph(page(), next);
  prepare();
  for (const field of typed) {
    const moved = document.getElementById(field.id);
    if (!field.isConnected && moved !== null) { // its form stands elsewhere now
      moved.value = field.value;
    }
  }
  const headline = document.getElementById("headline");
  if (focused !== document.body && !focused.isConnected) {
    away = id;
    if (!focus(away)) {
      headline.focus();
    }
  } else if (away !== "" && focused === headline && focus(away)) {
    away = ""; // it is back
  }
  const after = said();
  const news = after.filter((part, i) => part !== "" && part !== before[i]);
  if (news.length > 0) {
    announce(news.join(" "));
  } else if (own && after[2] !== "") {
    announce(after[2]); // the same result once more
  }
}

async function send(form, submitter) {
  const body = new URLSearchParams(new FormData(form, submitter));
  const answer = await fetch(form.action, { method: "POST", body, headers: { "Polargate-Page": "update" } });
  if (!answer.ok) {
    throw new Error(String(answer.status));
  }
  const text = await answer.text();
  form.reset();
  show(text, true);
}

document.addEventListener("submit", async (event) => {
  const form = event.target;
  if (form.enctype === "multipart/form-data") {
    return; // the browser sends files itself
  }
  event.preventDefault();
  const button = event.submitter ?? form;
  if (sending.has(button)) {
    return;
  }
  sending.add(button);
  page().setAttribute("aria-busy", "true");
  try {
    await send(form, event.submitter);
  } catch {
    announce(page().dataset.gone);
  }
  sending.delete(button);
  if (sending.size === 0) {
    page().removeAttribute("aria-busy");
  }
});

async function look() {
  try {
    if (sending.size === 0 && document.getElementById("outgoing") === null) {
      const answer = await fetch("state");
      if (answer.ok && await answer.text() !== document.documentElement.dataset.version) {
        const fresh = await fetch("./");
        if (fresh.ok && sending.size === 0) {
          show(await fresh.text(), false);
        }
      }
    }
  } catch {
    // The program has ended.
  }
  setTimeout(look, page().dataset.busy ? 500 : 3000);
}

// Copies the text to the clipboard. Without this, it can be selected or saved as a file.
const copy = document.getElementById("copy");
if (copy !== null) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    const outgoing = document.getElementById("outgoing");
    try {
      await navigator.clipboard.writeText(outgoing.value);
      copy.textContent = copy.dataset.done;
      announce(copy.dataset.done);
    } catch {
      outgoing.select(); // the browser doesn't allow it: Ctrl-C does the rest
    }
  });
}

setInterval(() => {
  const left = document.getElementById("left");
  if (left !== null) {
    left.textContent = clock(Math.max(0, Math.ceil((end - Date.now()) / 1000)));
  }
}, 1000);

prepare();
setTimeout(look, page().dataset.busy ? 500 : 3000);
