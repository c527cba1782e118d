"use strict";
// Copies the text to the clipboard. Without this, it can be selected or saved as a file.
const copy = document.getElementById("copy");
const outgoing = document.getElementById("outgoing");
if (copy !== null && outgoing !== null) {
  copy.hidden = false;
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(outgoing.value);
      copy.textContent = "Copied";
    } catch {
      outgoing.select(); // the browser doesn't allow it: Ctrl-C does the rest
    }
  });
}
