// The stream that tells of the cursor, and its end and return.  This begins it all.
"use strict";

/** How long until a stream that was refused is asked for again.  Milliseconds. */
const SHORTEST_PAUSE = 250;
const LONGEST_PAUSE = 10_000;

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
  source = new EventSource("/events?workers");
  source.addEventListener("open", () => {
    connected("live", "Live");
    pause = SHORTEST_PAUSE;
    // A failover is over before anybody could have been told of it.
    if (lostAt !== null && performance.now() - lostAt > 3000) write("said", "Connected again.");
    lostAt = null;
    // If the cursor is where it was, nothing is told, and this page goes on from there.
    after(300).then(() => {
      if (shown && samples.at(-1) === null) sample(shown);
      mended();
    });
    refreshHistory();
  });
  source.addEventListener("message", (event) => {
    const told = JSON.parse(event.data);
    const state = told.current === undefined ? told : whole(told);
    sample(state);
    show(state);
    showNoSupervisor();
  });
  source.addEventListener("workers", (event) => showWorkers(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    connected("lost", "Reconnecting");
    if (lostAt === null) broken();
    lostAt ??= performance.now();
    interrupt();
    // The browser comes back by itself to a stream that ended, but not to a refusal.
    if (source.readyState === EventSource.CLOSED) {
      reconnection = setTimeout(connect, pause);
      pause = Math.min(2 * pause, LONGEST_PAUSE);
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

write("origin", location.origin);
if (!document.hidden) connect();
drawOn();
