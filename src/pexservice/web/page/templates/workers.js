// Which worker serves, and what is said when another one does.
"use strict";

/** What was told of the workers last, while one of them served. */
let serving = null;

const milliseconds = (seconds) => (seconds < 0.001 ? "less than 1 ms" : `${numbers.format(Math.round(1000 * seconds))} ms`);

function showWorkers(told) {
  write("worker", told.serving ?? "none");
  write("since", told.serving === null ? "…" : times.format(new Date(told.since)));
  write("standing-by", `${told.standing_by} of ${told.standby}`);
  write("takeovers", numbers.format(told.takeovers));
  if (told.serving === null) return;
  const before = serving;
  serving = told;
  if (before !== null && before.since !== told.since) announce(before, told);
}

/** A service without a supervisor tells nothing of its workers. */
function showNoSupervisor() {
  if (serving !== null || $("worker").textContent !== "…") return;
  write("worker", "one worker");
  for (const id of ["since", "standing-by", "takeovers"]) write(id, "not known");
  write("takeover", "This worker has no supervisor of ours: what happens when it dies is up to the program that started it.");
}

/** Something has happened to the workers, and stays said until something else does. */
function news(words) {
  $("takeover").dataset.news = "";
  write("takeover", words);
}

const BROKEN = "The stream of events broke …";

function broken() {
  news(BROKEN);
}

/** If it was not the worker's end that broke it, nothing more is told. */
function mended() {
  if ($("takeover").textContent === BROKEN) news("The stream of events broke, and goes on with the same worker");
}

async function announce(before, told) {
  const gone = told.before ?? before.serving;
  mark(told.serving);
  const killed = told.takeovers > before.takeovers;
  const same = gone === told.serving;
  const verb = same ? "was started again" : killed ? "took over" : "serves in its place";
  const words = `${gone} ${killed ? "gone" : "was replaced"}, ${same ? "it" : told.serving} ${verb} after ${milliseconds(told.pause)}`;
  news(words);
  // The highest that anybody was told of before; none above it may be missing.
  const known = shown?.revision ?? 0;
  try {
    const answer = await fetch("/current", { method: "HEAD" });
    const missing = known - Number(answer.headers.get("Pex-Revision"));
    if (answer.ok && serving === told) news(`${words}, ${missing > 0 ? `${missing} steps lost` : "nothing lost"}`);
  } catch {
    // It is gone again, and the next one is told of in its turn.
  }
}
