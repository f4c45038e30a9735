// The live page: what the service tells is shown, and what is pressed is sent.
//
// Three parts: the cursor as it is told by /events, the steps that the buttons send,
// and the trace with the history.  Nothing is kept when the page is closed.

/** How many digits are shown whole, and how many of each end of a longer value. */
const WHOLE = 120;
const END = 24;

/** How many digits the page lays out at most; copying has all of them. */
const MOST_LAID_OUT = 10_000;

/** How long a step that gets no answer is repeated, with one key.  Milliseconds. */
const PATIENCE = 60_000;
const LONGEST_ANSWER = 15_000;
const SHORTEST_PAUSE = 250;
const LONGEST_PAUSE = 5_000;

/** How many steps wait for their turn. */
const MOST_WAITING = 20;

/** What is seen of the trace.  Milliseconds. */
const SPAN = 60_000;

const $ = (id) => document.getElementById(id);
const numbers = new Intl.NumberFormat("en");
const times = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });
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

// The cursor.

/** The state that is shown: as the API's JSON has it, and the ends of its value. */
let shown = null;

function whole(state) {
  const { current } = state;
  return { ...state, digits: current.length, first: current.slice(0, END), last: current.slice(-END) };
}

/** The text representation, of whose value only the ends are kept. */
async function fromText(answer) {
  const text = (await answer.text()).trim();
  return {
    text,
    position: Number(answer.headers.get("Pex-Position")),
    revision: Number(answer.headers.get("Pex-Revision")),
    digits: text.length,
    first: text.slice(0, END),
    last: text.slice(-END),
  };
}

function folded(text) {
  return text.length <= 15 ? text : `${text.slice(0, 6)}…${text.slice(-6)}`;
}

function show(state) {
  shown = state;
  write("position", numbers.format(state.position));
  write("revision", numbers.format(state.revision));
  write("digits", numbers.format(state.digits));
  const long = state.digits > WHOLE;
  if (long) {
    const gap = Object.assign(document.createElement("span"), { className: "gap", textContent: "…" });
    $("value").replaceChildren(state.first.slice(0, END), gap, state.last.slice(-END));
  } else {
    write("value", state.current ?? state.text);
  }
  $("value").dataset.length = long || state.digits > 36 ? "long" : state.digits > 14 ? "medium" : "short";
  $("fold").hidden = state.digits <= END;
  $("expand").hidden = !long;
  // The neighbours of a long value are not told.
  $("before").parentElement.hidden = $("after").parentElement.hidden = state.next === undefined;
  write("before", state.previous ? folded(state.previous) : "nothing");
  write("after", folded(state.next ?? ""));
  if ($("expand").hidden && !$("all").hidden) expand(false);
  if (!$("all").hidden) layOut();
  history();
}

/** All digits of a value that is not too long to be told with each event. */
async function digits() {
  if (shown.current !== undefined) return { position: shown.position, text: shown.current };
  const answer = await fetch("/current", { headers: { Accept: "text/plain" } });
  if (!answer.ok) throw new Error((await answer.text()).trim());
  return fromText(answer);
}

function expand(wide) {
  $("all").hidden = !wide;
  $("expand").setAttribute("aria-expanded", String(wide));
  write("expand", wide ? "Hide them" : "Show them");
  if (wide) layOut();
}

let laidOut = null;

const layOut = paced(1000, async () => {
  if ($("all").hidden || laidOut === shown.position) return;
  let value;
  try {
    value = await digits();
  } catch {
    // The connection is shown as what it is; the next event brings another try.
    return;
  }
  laidOut = value.position;
  const { text } = value;
  const left = text.length - MOST_LAID_OUT;
  if (left <= 0) {
    $("all").textContent = text;
  } else {
    const half = MOST_LAID_OUT / 2;
    const note = document.createElement("p");
    note.textContent = `${numbers.format(left)} digits are left out here; Copy has all of them.`;
    $("all").replaceChildren(text.slice(0, half), note, text.slice(-half));
  }
});

async function copy() {
  try {
    const value = await digits();
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(value.text);
    } else {
      copyAsTheOldOnes(value.text);
    }
    write("copied", `F(${numbers.format(value.position)}) is copied.`);
  } catch (error) {
    write("copied", `Not copied: ${error.message}`);
  }
  await after(5000);
  write("copied", "");
}

/** Over plain HTTP from another machine there is no clipboard of the new kind. */
function copyAsTheOldOnes(text) {
  const give = (event) => {
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  };
  document.addEventListener("copy", give, { once: true });
  const taken = document.execCommand("copy");
  document.removeEventListener("copy", give);
  if (!taken) throw new Error("the browser does not let this page; open /current instead");
}

$("expand").addEventListener("click", () => expand($("all").hidden));
$("copy").addEventListener("click", copy);

// The connection.

let source = null;
let reconnection = null;
let pause = SHORTEST_PAUSE;
let lostAt = null;

function connected(state, words) {
  $("connection").dataset.state = state;
  write("connection-words", words);
}

function connect() {
  disconnect();
  source = new EventSource("/events");
  source.addEventListener("open", () => {
    connected("live", "Live");
    pause = SHORTEST_PAUSE;
    // A failover is over before anybody could have been told of it.
    if (lostAt !== null && performance.now() - lostAt > 3000) write("said", "Connected again.");
    lostAt = null;
    // If the cursor is where it was, nothing is told, and this page goes on from there.
    after(300).then(() => shown && samples.at(-1) === null && sample(shown));
    history();
  });
  source.addEventListener("message", (event) => {
    const told = JSON.parse(event.data);
    const state = told.current === undefined ? told : whole(told);
    sample(state);
    show(state);
  });
  source.addEventListener("error", () => {
    connected("lost", "Reconnecting");
    lostAt ??= performance.now();
    interrupt();
    // The browser comes back by itself to a stream that ended, but not to a refusal.
    if (source.readyState === EventSource.CLOSED) {
      reconnection = setTimeout(connect, pause);
      pause = Math.min(2 * pause, 2 * LONGEST_PAUSE);
    }
  });
}

function disconnect() {
  clearTimeout(reconnection);
  source?.close();
  source = null;
}

// A browser has six connections to a server, and a page that nobody sees needs none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    disconnect();
    interrupt();
    connected("resting", "Resting");
  } else {
    connect();
  }
});

// Steps.

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
  while (waiting.length > 0 && (await send(waiting[0]))) waiting.shift();
  sending = false;
}

/** Send a step until there is an answer; whether the next one has its turn. */
async function send({ path, key }) {
  const end = performance.now() + PATIENCE;
  for (let rest = SHORTEST_PAUSE; ; rest = Math.min(2 * rest, LONGEST_PAUSE)) {
    let why = "The service does not answer";
    let atLeast = 0;
    try {
      const answer = await ask(path, key);
      if (answer.ok) {
        arrived(await answered(answer));
        return true;
      }
      const problem = await answer.json();
      if (answer.status === 401) {
        askForToken(problem.detail);
        return false;
      }
      if (![429, 502, 503, 504].includes(answer.status)) {
        write("message", `The step was refused: ${problem.detail}`);
        return true;
      }
      why = `The service says: ${problem.detail}`;
      atLeast = 1000 * Number(answer.headers.get("Retry-After"));
    } catch {
      // No answer, or half of one: nobody knows whether the step was made, and the
      // same key makes it safe to send it again.
    }
    if (performance.now() > end) {
      write("message", `${why}. Whether the step was made is not known; sending it again makes it once.`);
      $("again").hidden = false;
      return false;
    }
    write("message", `${why}. The step is sent again, with the same key, until it does.`);
    // Not all pages at the same moment.
    await after(Math.max(rest, atLeast) * (0.75 + Math.random() / 2));
  }
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

// The trace.

/** What was told and when; null where the connection was interrupted. */
let samples = [];
/** Steps by the second that they were told of in. */
const rates = new Map();

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
  if (samples.at(-1)) samples.push({ ...samples.at(-1), now: performance.now() }, null);
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
}

function drawPositions(now) {
  const found = runs(now);
  const positions = found.flat().map((each) => each.position);
  if (positions.length === 0) return;
  const least = Math.min(...positions);
  const most = Math.max(...positions);
  const x = (time) => Math.max(0, 600 - ((now - time) / SPAN) * 600).toFixed(1);
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
    const right = 600 - ((now - 1000 * (second + 1)) / SPAN) * 600;
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

// The history.

const history = paced(1000, async () => {
  let transitions;
  try {
    const answer = await fetch("/history?limit=10", { headers: { Accept: "application/json" } });
    if (!answer.ok) return;
    ({ transitions } = await answer.json());
  } catch {
    // The connection is shown as what it is; the next event brings another try.
    return;
  }
  if (transitions.length === 0) return;
  $("history").replaceChildren(...transitions.map(row));
});

function row({ revision, transition, position, time }) {
  const when = document.createElement("time");
  when.dateTime = time;
  when.textContent = times.format(new Date(time));
  const cells = [numbers.format(revision), transition, numbers.format(position), when];
  const made = document.createElement("tr");
  made.append(
    ...cells.map((content) => {
      const cell = document.createElement("td");
      cell.append(content);
      return cell;
    }),
  );
  return made;
}

write("origin", location.origin);
if (!document.hidden) connect();
drawOn();
