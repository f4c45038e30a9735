// The charts: position, and steps per second, in the last minute.
"use strict";

/** The time that the charts show.  Milliseconds. */
const SPAN = 60_000;
/** How many takeovers are listed above the chart. */
const MAX_MARK_NAMES = 4;

/** The states that arrived, with their times; null where the connection was interrupted. */
let samples = [];
/** The number of steps in each second. */
const rates = new Map();

/** The workers that became active, with their times. */
let marks = [];
/** When the stream broke last. */
let brokenAt = null;

function mark(name) {
  marks.push({ at: brokenAt ?? performance.now(), name, time: times.format(new Date()) });
}

function sample({ position, revision }) {
  const now = performance.now();
  const last = samples.at(-1);
  if (last) {
    const second = Math.floor(now / 1000);
    // If the revision is lower, the service lost steps, as it may with --synchronous-commit off.
    rates.set(second, (rates.get(second) ?? 0) + Math.max(0, revision - last.revision));
  }
  samples.push({ now, position, revision });
}

function interrupt() {
  if (!samples.at(-1)) return;
  brokenAt = performance.now();
  samples.push({ ...samples.at(-1), now: brokenAt }, null);
}

/** End an interruption in which the cursor did not move. */
function resume(state) {
  if (samples.at(-1) === null) sample(state);
}

/** Return each uninterrupted series of samples; the last one continues until now. */
function runs(now) {
  const unbroken = [[]];
  for (const state of samples) {
    if (state) unbroken.at(-1).push(state);
    else unbroken.push([]);
  }
  if (samples.at(-1)) unbroken.at(-1).push({ ...samples.at(-1), now });
  return unbroken.filter((run) => run.length > 0);
}

function draw() {
  const now = performance.now();
  // One sample from before the last minute stays, because the line begins there.
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
  const names = marks.slice(-MAX_MARK_NAMES).map(({ name, time }) => `${name} at ${time}`);
  write("mark-names", names.join(" · "));
}

function drawPositions(now) {
  const unbroken = runs(now);
  const positions = unbroken.flat().map(({ position }) => position);
  if (positions.length === 0) return;
  const lowest = Math.min(...positions);
  const highest = Math.max(...positions);
  const x = (time) => Math.max(0, across(time, now)).toFixed(1);
  const y = (position) => (highest === lowest ? 50 : 94 - ((position - lowest) / (highest - lowest)) * 88).toFixed(1);
  let line = "";
  let area = "";
  for (const run of unbroken) {
    const steps = run.map((state, n) => (n === 0 ? `M${x(state.now)} ${y(state.position)}` : `H${x(state.now)}V${y(state.position)}`)).join("");
    line += steps;
    area += `${steps}V100H${x(run[0].now)}Z`;
  }
  $("positions").querySelector(".line").setAttribute("d", line);
  $("positions").querySelector(".area").setAttribute("d", area);
  write("position-range", highest === lowest ? numbers.format(highest) : `${numbers.format(lowest)} to ${numbers.format(highest)}`);
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
  // This shows the last complete second.
  write("rate", numbers.format(rates.get(Math.floor(now / 1000) - 1) ?? 0));
}

const calm = matchMedia("(prefers-reduced-motion: reduce)");

async function drawOn() {
  for (;;) {
    if (!document.hidden) draw();
    await after(calm.matches ? 1000 : 100);
  }
}
