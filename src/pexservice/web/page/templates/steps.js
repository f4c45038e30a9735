// What is pressed is sent, in order, and sent again until there is an answer.
"use strict";

/** How long a step that gets no answer is repeated, with one key.  Milliseconds. */
const PATIENCE = 60_000;
const LONGEST_ANSWER = 15_000;
const SHORTEST_REST = 250;
const LONGEST_REST = 5_000;

/** How many steps wait for their turn. */
const MOST_WAITING = 20;

/** In their order; the first is under way.  Each has a key of its own. */
const waiting = [];
let sending = false;
let token = null;

function newKey() {
  // crypto.randomUUID is not there over plain HTTP from another machine.
  return Array.from(crypto.getRandomValues(new Uint32Array(4)), (each) => each.toString(36)).join("-");
}

function step(name) {
  if (waiting.length >= MOST_WAITING) {
    write("message", `${MOST_WAITING} steps wait for an answer already.`);
    return;
  }
  waiting.push({ path: `/${name}`, key: newKey() });
  work();
}

async function work() {
  if (sending) return;
  sending = true;
  $("again").hidden = true;
  while (waiting.length > 0 && (await send(waiting[0], giveUp)) !== WAITS) waiting.shift();
  sending = false;
}

function giveUp(why) {
  write("message", `${why}. Whether the step was made is not known; sending it again makes it once.`);
  $("again").hidden = false;
}

/** What becomes of a step besides the state that it leads to. */
const REFUSED = "refused";
const WAITS = "waits";

/** Send a step until there is an answer; the state it led to, or what else became of it. */
async function send({ path, key }, unanswered, sentAgain = () => {}) {
  const end = performance.now() + PATIENCE;
  for (let rest = SHORTEST_REST; ; rest = Math.min(2 * rest, LONGEST_REST)) {
    let why = "The service does not answer";
    let atLeast = 0;
    try {
      const answer = await ask(path, key);
      if (answer.ok) {
        const state = await answered(answer);
        arrived(state);
        return state;
      }
      const problem = await answer.json();
      if (answer.status === 401) {
        askForToken(problem.detail);
        return WAITS;
      }
      if (![429, 502, 503, 504].includes(answer.status)) {
        write("message", `The step was refused: ${problem.detail}`);
        return REFUSED;
      }
      why = `The service says: ${problem.detail}`;
      atLeast = retryAfter(answer);
    } catch {
      // No answer, or half of one: nobody knows whether the step was made, and the
      // same key makes it safe to send it again.
    }
    if (performance.now() > end) {
      unanswered(why);
      return WAITS;
    }
    write("message", `${why}. The step is sent again, with the same key, until it does.`);
    // Not all pages at the same moment.
    await after(Math.max(rest, atLeast) * (0.75 + Math.random() / 2));
    sentAgain();
  }
}

/** What a Retry-After says: seconds, or a date, as some proxies write it.  Milliseconds. */
function retryAfter(answer) {
  const value = answer.headers.get("Retry-After") ?? "";
  const wait = /^\d+$/.test(value) ? 1000 * Number(value) : Date.parse(value) - Date.now();
  // Of what is neither, nothing is known.
  return Number.isNaN(wait) ? 0 : Math.min(wait, PATIENCE);
}

/** A short value as JSON, with its neighbours; a long one as text, once. */
function ask(path, key) {
  const short = shown?.current !== undefined;
  const headers = {
    Accept: short ? "application/json" : "application/problem+json, text/plain;q=0.9",
    "Idempotency-Key": key,
  };
  if (token !== null) headers.Authorization = `Bearer ${token}`;
  return fetch(path, { method: "POST", headers, signal: AbortSignal.timeout(LONGEST_ANSWER) });
}

async function answered(answer) {
  const isText = answer.headers.get("Content-Type").startsWith("text/");
  return isText ? fromText(answer) : whole(await answer.json());
}

function arrived(state) {
  write("message", "");
  // An event may have told of a later one.
  if (shown === null || state.revision > shown.revision) show(state);
  say();
}

let saying = null;

/** Of many steps in a row only the last is read out. */
function say() {
  clearTimeout(saying);
  saying = setTimeout(() => {
    const value = shown.digits <= 16 ? (shown.current ?? shown.text) : `a number of ${shown.digits} digits`;
    write("said", `Position ${shown.position}: ${value}`);
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
  work();
});
$("again").addEventListener("click", work);
for (const button of document.querySelectorAll("[data-step]")) {
  button.addEventListener("click", () => step(button.dataset.step));
}

// A reset is for everybody, so it is asked for; and the keys, where nobody writes.
function askForReset() {
  const at = shown === null ? "where it is" : `at F(${numbers.format(shown.position)})`;
  write("keep", `Stay ${at}`);
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
