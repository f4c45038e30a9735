// What the other scripts share.  They are read in the order of index.html, and what
// one declares the later ones use.
"use strict";

const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
const after = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));

/** Change what is there only if it is something else, so that nothing is said twice. */
function write(id, text) {
  if ($(id).textContent !== text) $(id).textContent = text;
}

/** A function that is called at most once in so many milliseconds, and once at the end. */
function paced(milliseconds, work) {
  let timer = null;
  let wanted = false;
  const turn = () => {
    timer = null;
    if (wanted) call();
  };
  const call = () => {
    wanted = timer !== null;
    if (wanted) return;
    timer = setTimeout(turn, milliseconds);
    work();
  };
  return call;
}
