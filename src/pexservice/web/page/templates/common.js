// What all scripts share.  The browser runs the scripts in the order of index.html, and a
// script may use what an earlier one has declared.
"use strict";

const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
const after = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Set the text of an element only if it differs, so that a screen reader announces it once. */
function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** Return a function that works at most once per interval, and after the last of its calls. */
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
