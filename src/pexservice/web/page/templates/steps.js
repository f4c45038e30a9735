// Each button sends a step.  Steps are sent in order, each until it gets a response.
"use strict";

/** How long all attempts of a step, and one attempt, may take.  Milliseconds. */
const STEP_TIMEOUT = 60_000;
const ATTEMPT_TIMEOUT = 15_000;
/** The first and the longest delay between attempts; it doubles.  Milliseconds. */
const MIN_STEP_DELAY = 250;
const MAX_STEP_DELAY = 5_000;

/** How many steps may wait until the earlier ones have their responses. */
const MAX_WAITING = 20;

/** The steps in their order, each with its own key; the first is being sent. */
const waiting = [];
let sending = false;
let token = null;

function newKey() {
  // A page from another machine over plain HTTP has no crypto.randomUUID.
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (number) => number.toString(36)).join("-");
}

function step(name) {
  if (waiting.length >= MAX_WAITING) {
    write("message", `${MAX_WAITING} steps are waiting already.`);
    return;
  }
  waiting.push({ path: `/${name}`, key: newKey() });
  sendWaiting();
}

async function sendWaiting() {
  if (sending) return;
  sending = true;
  $("again").hidden = true;
  while (waiting.length > 0 && (await send(waiting[0], giveUp)) !== WAITS) waiting.shift();
  sending = false;
}

function giveUp(reason) {
  write("message", `${reason}. It is unknown whether the step was made; sending it again is safe.`);
  $("again").hidden = false;
}

/** What send() returns if there is no state after the step: it was refused, or it waits. */
const REFUSED = "refused";
const WAITS = "waits";

/** Send a step until there is a response; return the state after it, REFUSED or WAITS. */
async function send({ path, key }, unanswered, sentAgain = () => {}) {
  const end = performance.now() + STEP_TIMEOUT;
  for (let delay = MIN_STEP_DELAY; ; delay = Math.min(2 * delay, MAX_STEP_DELAY)) {
    let reason = "The service does not respond";
    let retryAfterDelay = 0;
    try {
      const response = await ask(path, key);
      if (response.ok) {
        const state = await stateOf(response);
        arrived(state);
        return state;
      }
      const problem = await response.json();
      if (response.status === 401) {
        askForToken(problem.detail);
        return WAITS;
      }
      if (![429, 502, 503, 504].includes(response.status)) {
        write("message", `The step was refused: ${problem.detail}`);
        return REFUSED;
      }
      reason = `The service says: ${problem.detail}`;
      retryAfterDelay = retryAfter(response);
    } catch {
      // No complete response arrived, so the step may have been made.  With the same key, it
      // is safe to send the step again.
    }
    if (performance.now() > end) {
      unanswered(reason);
      return WAITS;
    }
    write("message", `${reason}. The step is repeated with the same key.`);
    // The delay is random, so that the open pages do not retry at the same moment.
    await after(Math.max(delay, retryAfterDelay) * (0.75 + Math.random() / 2));
    sentAgain();
  }
}

/** Return the delay of a Retry-After header, which has seconds or a date.  Milliseconds. */
function retryAfter(response) {
  const value = response.headers.get("Retry-After") ?? "";
  const wait = /^\d+$/.test(value) ? 1000 * Number(value) : Date.parse(value) - Date.now();
  // Any other value is ignored.
  return Number.isNaN(wait) ? 0 : Math.min(wait, STEP_TIMEOUT);
}

/** Ask for a short value as JSON with the previous and the next value, for a long one as text. */
function ask(path, key) {
  const short = shown?.current !== undefined;
  const headers = {
    Accept: short ? "application/json" : "application/problem+json, text/plain;q=0.9",
    "Idempotency-Key": key,
  };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { method: "POST", headers, signal: AbortSignal.timeout(ATTEMPT_TIMEOUT) });
}

async function stateOf(response) {
  const isText = response.headers.get("Content-Type").startsWith("text/");
  return isText ? fromText(response) : withEnds(await response.json());
}

function arrived(state) {
  write("message", "");
  // An event may have shown a later state before this response arrived.
  if (shown === null || state.revision > shown.revision) show(state);
  announceState();
}

let announcementTimer = null;

/** Announce the state to a screen reader, but only once after several quick steps. */
function announceState() {
  clearTimeout(announcementTimer);
  announcementTimer = setTimeout(() => {
    const value = shown.digits <= 16 ? (shown.current ?? shown.text) : `a number of ${shown.digits} digits`;
    write("announcement", `Position ${shown.position}: ${value}`);
  }, 700);
}

function askForToken(detail) {
  write("message", `The step waits: ${detail.split(";")[0]}.`);
  $("access").hidden = false;
  $("token").focus();
}

$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  token = $("token").value.trim();
  $("token").value = "";
  $("access").hidden = true;
  document.querySelector("[data-step=next]").focus();
  sendWaiting();
});
$("again").addEventListener("click", sendWaiting);
for (const button of document.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => step(button.dataset.step));
}

// A reset changes the cursor for every client, so the page asks first.
function askForReset() {
  const place = shown === null ? "where it is" : `at F(${numbers.format(shown.position)})`;
  write("keep", `Stay ${place}`);
  $("sure").showModal();
}

const KEYS = { ArrowLeft: () => step("previous"), ArrowRight: () => step("next"), r: askForReset };

document.addEventListener("keydown", (event) => {
  const isModified = event.ctrlKey || event.metaKey || event.altKey;
  if (isModified || $("sure").open || event.target.closest("input, [role=region]")) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!act || (event.repeat && act === askForReset)) return;
  event.preventDefault();
  act();
});
$("ask-reset").addEventListener("click", askForReset);
for (const button of $("sure").querySelectorAll("button")) {
  button.addEventListener("click", () => $("sure").close());
}
