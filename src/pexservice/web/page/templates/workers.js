// The active worker, and the message when another one becomes active.
"use strict";

/** How long a message about a takeover is shown next to the cursor.  Milliseconds. */
const NEWS_TIME = 10_000;
/** How many of these messages are shown at once. */
const MAX_NEWS = 2;
/** If a new stream reports no other worker for this long, none took over.  Milliseconds. */
const SETTLING_TIME = 2_000;

/** The last event that named an active worker. */
let active = null;
/** Whether the stream broke, and it is not known yet whether the active worker changed. */
let unsettled = false;
let settlingTimer = null;

const milliseconds = (seconds) => (seconds < 0.001 ? "less than 1 ms" : `${numbers.format(Math.round(1000 * seconds))} ms`);

/** Show the process ids, which the service tells only to clients on its own machine. */
async function showProcesses() {
  try {
    const response = await fetch("/livez", { headers: { Accept: "application/json" } });
    const { processes = [] } = await response.json();
    // The stream may have ended meanwhile.  Then these processes may have ended too.
    if (lostAt !== null) return;
    $("processes").hidden = processes.length === 0;
    write("processes", "Processes: " + processes.map(({ name, pid, state }) => `${name} ${pid} (${state})`).join(", "));
  } catch {
    // The service does not respond.  The stream will show that.
  }
}

function showWorkers(workers) {
  showProcesses();
  write("worker", workers.serving ?? "none");
  write("since", workers.serving === null ? "…" : times.format(new Date(workers.since)));
  write("standing-by", `${workers.standing_by} of ${workers.standby}`);
  write("takeovers", numbers.format(workers.takeovers));
  if (workers.serving === null) return;
  const before = active;
  active = workers;
  if (before !== null && before.since !== workers.since) announce(before, workers);
  else if (unsettled) settle();
}

/** A service without a supervisor sends no events about its workers. */
function showNoSupervisor() {
  if (active !== null || $("worker").textContent !== "…") return;
  write("worker", "one worker");
  for (const id of ["since", "standing-by", "takeovers"]) write(id, "not known");
  write("takeover", "This worker has no supervisor of pexservice: the program that started it decides what happens when it dies.");
}

/** The stream broke.  The next stream shows whether a worker is active, and which one. */
function showNoWorkers() {
  if (active === null) return;
  unsettled = true;
  for (const id of ["worker", "since", "standing-by", "takeovers"]) write(id, "not known");
  $("processes").hidden = true;
  report("The connection to the service is lost …");
}

/**
 * The stream is back.  The supervisor may record a takeover a moment after the new worker
 * has accepted this stream.  So the page waits before it says that there was no takeover.
 */
function settle() {
  clearTimeout(settlingTimer);
  settlingTimer = setTimeout(() => {
    unsettled = false;
    report("The connection was lost and is back, to the same worker");
  }, SETTLING_TIME);
}

/** Show the last event of the workers in their card, without a time limit. */
function report(text) {
  $("takeover").dataset.news = "";
  write("takeover", text);
}

/** Show a message next to the cursor for some seconds, below earlier messages. */
function flash(text) {
  const line = Object.assign(document.createElement("span"), { textContent: text });
  $("news").append(line);
  while ($("news").children.length > MAX_NEWS) $("news").firstChild.remove();
  setTimeout(() => line.remove(), NEWS_TIME);
  return line;
}

async function announce(before, workers) {
  clearTimeout(settlingTimer);
  unsettled = false;
  const ended = workers.before ?? before.serving;
  mark(workers.serving);
  const killed = workers.takeovers > before.takeovers;
  const same = ended === workers.serving;
  const verb = same ? "was started again" : killed ? "took over" : "was started in its place";
  // A pause of 0 means that the pause is unknown.
  const change = workers.pause ? `${verb} after ${milliseconds(workers.pause)}` : verb;
  let full = `${ended} ${killed ? "ended" : "was replaced"}, ${same ? "it" : workers.serving} ${change}`;
  let short = `${workers.serving} ${same || killed ? change : "replaced " + ended}`;
  // Before the first worker of a supervisor there was no other, so there is no pause.
  if (workers.before === null) full = short = "The service was started again";
  report(full);
  const line = flash(short);
  // If the revision is below the highest one that the page has shown, steps were lost.
  const shownRevision = shown?.revision ?? 0;
  try {
    const response = await fetch("/current", { method: "HEAD" });
    if (!response.ok) return;
    const missing = shownRevision - Number(response.headers.get("Pex-Revision"));
    const balance = missing > 0 ? `${missing} steps lost` : "nothing lost";
    line.textContent += `; ${balance}`;
    if (active === workers) report(`${full}, ${balance}`);
  } catch {
    // This worker has ended too.  The next takeover shows its own message.
  }
}
