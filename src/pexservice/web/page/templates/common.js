// What the other scripts share.  The browser runs them in the order of index.html, and
// the later ones use what the earlier ones declare.
"use strict";

const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
const after = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Change a text only if it differs, so that a screen reader announces it once. */
function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** Return a function that works at most once per interval, and once more after the last call. */
function paced(interval, work) {
  let timer = null;
  let wanted = false;
  const turn = () => {
    timer = null;
    if (wanted) call();
  };
  const call = () => {
    wanted = timer !== null;
    if (wanted) return;
    timer = setTimeout(turn, interval);
    work();
  };
  return call;
}
