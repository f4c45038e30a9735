// Position and steps a second of the last minute, drawn.
"use strict";

/** What is seen of it.  Milliseconds. */
const SPAN = 60_000;

/** What was told and when; null where the connection was interrupted. */
let samples = [];
/** Steps by the second that they were told of in. */
const rates = new Map();

/** When another worker began to serve, and its name. */
let marks = [];
/** When the stream broke last. */
let brokenAt = null;

function mark(name) {
  marks.push({ at: brokenAt ?? performance.now(), name });
}

function sample({ position, revision }) {
  const now = performance.now();
  const last = samples.at(-1);
  if (last) {
    const second = Math.floor(now / 1000);
    // Fewer than before: the service lost answers, as it may without synchronous commit.
    rates.set(second, (rates.get(second) ?? 0) + Math.max(0, revision - last.revision));
  }
  samples.push({ now, position, revision });
}

function interrupt() {
  if (!samples.at(-1)) return;
  brokenAt = performance.now();
  samples.push({ ...samples.at(-1), now: brokenAt }, null);
}

/** Each unbroken run of samples, up to now if nothing came since. */
function runs(now) {
  const found = [[]];
  for (const each of samples) {
    if (each) found.at(-1).push(each);
    else found.push([]);
  }
  if (samples.at(-1)) found.at(-1).push({ ...samples.at(-1), now });
  return found.filter((run) => run.length > 0);
}

function draw() {
  const now = performance.now();
  // One sample from before stays, for the line begins at it.
  while (samples.length > 1 && (samples[1]?.now ?? 0) < now - SPAN) samples.shift();
  for (const second of rates.keys()) if (second < (now - SPAN) / 1000 - 1) rates.delete(second);
  drawPositions(now);
  drawRates(now);
  drawMarks(now);
}

const across = (time, now) => 600 - ((now - time) / SPAN) * 600;

function drawMarks(now) {
  if (marks.length === 0) return;
  marks = marks.filter(({ at }) => at > now - SPAN);
  const lines = marks.map(({ at }) => `M${across(at, now).toFixed(1)} 0V100`).join("");
  for (const path of document.querySelectorAll(".marks")) path.setAttribute("d", lines);
  const names = marks.map(({ at, name }) => {
    const made = Object.assign(document.createElement("span"), { textContent: name });
    made.style.left = `${across(at, now) / 6}%`;
    made.classList.toggle("late", at > now - SPAN / 2);
    return made;
  });
  $("mark-names").replaceChildren(...names);
}

function drawPositions(now) {
  const found = runs(now);
  const positions = found.flat().map((each) => each.position);
  if (positions.length === 0) return;
  const least = Math.min(...positions);
  const most = Math.max(...positions);
  const x = (time) => Math.max(0, across(time, now)).toFixed(1);
  const y = (position) => (most === least ? 50 : 94 - ((position - least) / (most - least)) * 88).toFixed(1);
  let line = "";
  let area = "";
  for (const run of found) {
    const steps = run.map((each, n) => (n === 0 ? `M${x(each.now)} ${y(each.position)}` : `H${x(each.now)}V${y(each.position)}`)).join("");
    line += steps;
    area += `${steps}V100H${x(run[0].now)}Z`;
  }
  $("positions").querySelector(".line").setAttribute("d", line);
  $("positions").querySelector(".area").setAttribute("d", area);
  write("position-range", most === least ? numbers.format(most) : `${numbers.format(least)} to ${numbers.format(most)}`);
}

function drawRates(now) {
  const most = Math.max(1, ...rates.values());
  let bars = "";
  for (const [second, steps] of rates) {
    const right = across(1000 * (second + 1), now);
    const left = Math.max(0, right - 9);
    if (steps > 0 && right > 0) bars += `M${left.toFixed(1)} 100V${(100 - (steps / most) * 94).toFixed(1)}H${Math.min(600, right).toFixed(1)}V100Z`;
  }
  $("rates").querySelector(".bars").setAttribute("d", bars);
  write("rate-range", `up to ${numbers.format(most)}`);
  // Of the last second that is over.
  write("rate", numbers.format(rates.get(Math.floor(now / 1000) - 1) ?? 0));
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

async function drawOn() {
  for (;;) {
    if (!document.hidden) draw();
    await after(calm.matches ? 1000 : 100);
  }
}
