// The stream of events: the page opens a stream, and opens another one when it ends or is silent.
"use strict";

/** The first and the longest delay after a refused stream; it doubles.  Milliseconds. */
const MIN_RETRY_DELAY = 250;
const MAX_RETRY_DELAY = 10_000;

/** If no heartbeat arrives for this long, the network is lost.  Milliseconds. */
const SILENCE_TIMEOUT = 40_000;
/** How long a stream may take to open.  Milliseconds. */
const OPEN_TIMEOUT = 10_000;

let source = null;
let retryTimer = null;
let silenceTimer = null;
let retryDelay = MIN_RETRY_DELAY;
let lostAt = null;

function showConnection(state, text) {
  $("connection").dataset.state = state;
  write("connection-words", text);
}

/** Open a new stream.  Events of earlier streams are ignored. */
function connect() {
  disconnect();
  const stream = new EventSource("/events?workers");
  source = stream;
  const listen = (type, listener) => {
    stream.addEventListener(type, (event) => {
      if (stream !== source) return;
      expectEvent(SILENCE_TIMEOUT);
      listener(event);
    });
  };
  expectEvent(OPEN_TIMEOUT);
  listen("open", streamOpened);
  listen("message", ({ data }) => {
    const event = JSON.parse(data);
    const state = event.current === undefined ? event : withEnds(event);
    sample(state);
    show(state);
    showNoSupervisor();
  });
  listen("workers", ({ data }) => showWorkers(JSON.parse(data)));
  listen("heartbeat", () => {});
  stream.addEventListener("error", () => {
    if (stream !== source) return;
    streamLost();
    // The browser reopens a stream that ended, but not one that was refused.
    if (stream.readyState === EventSource.CLOSED) {
      clearTimeout(silenceTimer);
      retryTimer = setTimeout(connect, retryDelay);
      retryDelay = Math.min(2 * retryDelay, MAX_RETRY_DELAY);
    } else {
      expectEvent(OPEN_TIMEOUT);
    }
  });
}

/** Open a new stream if no event arrives within the timeout. */
function expectEvent(timeout) {
  clearTimeout(silenceTimer);
  silenceTimer = setTimeout(reconnect, timeout);
}

function streamOpened() {
  showConnection("live", "Live");
  retryDelay = MIN_RETRY_DELAY;
  // A takeover is short, so a screen reader does not announce the interruption.
  if (lostAt !== null && performance.now() - lostAt > 3000) write("announcement", "Connected again.");
  lostAt = null;
  // If the cursor has not moved, a stream that the browser reopened begins without a state.
  // So the chart continues with the state that is shown.
  const stream = source;
  after(300).then(() => {
    if (stream === source && lostAt === null && shown) resume(shown);
  });
  refreshHistory();
}

function streamLost() {
  clearTimeout(settlingTimer);
  showConnection("lost", "Reconnecting");
  if (lostAt === null) showNoWorkers();
  lostAt ??= performance.now();
  interrupt();
}

function reconnect() {
  streamLost();
  connect();
}

function disconnect() {
  clearTimeout(retryTimer);
  clearTimeout(silenceTimer);
  clearTimeout(settlingTimer);
  source?.close();
  source = null;
}

// A browser allows six connections to a server, and a hidden page needs none.
document.addEventListener("visibilitychange", () => {
  if (document.hidden) {
    disconnect();
    interrupt();
    showConnection("resting", "Resting");
  } else {
    connect();
  }
});

// The browser reports that some network changed.  A new stream shows whether the service can
// still be reached.
for (const change of ["offline", "online"]) {
  addEventListener(change, () => {
    if (!document.hidden) reconnect();
  });
}

write("origin", location.origin);
if (!document.hidden) connect();
drawOn();
