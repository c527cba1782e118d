"use strict";
// Counts down, and reloads the page when there is something new to show. Everything
// else works without it.
const version = document.documentElement.dataset.version;
const left = document.getElementById("left");
const busy = left !== null || document.title.includes("…");
const end = left === null ? 0 : Date.now() + 1000 * left.dataset.seconds;

function clock(seconds) {
  return Math.floor(seconds / 60) + ":" + String(seconds % 60).padStart(2, "0");
}

function typing() {
  const key = document.getElementById("key");
  const text = document.getElementById("text");
  return key !== null && key.value !== "" || text !== null && text.value !== text.defaultValue;
}

if (left !== null) {
  setInterval(() => { left.textContent = clock(Math.max(0, Math.ceil((end - Date.now()) / 1000))); }, 1000);
}

setInterval(async () => {
  try {
    const answer = await fetch("/state");
    if (answer.ok && await answer.text() !== version && !typing()) {
      location.reload();
    }
  } catch {
    // The program has ended.
  }
}, busy ? 500 : 3000);
