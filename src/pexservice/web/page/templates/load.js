// A small load, and the batches in which its steps were committed.
"use strict";

const LOAD_STEPS = 20;

async function load() {
  $("load").disabled = true;
  $("batches").replaceChildren();
  write("load-result", `Sending ${LOAD_STEPS} steps …`);
  const start = performance.now();
  let longest = 0;
  let repeats = 0;
  const states = await Promise.all(
    Array.from({ length: LOAD_STEPS }, async () => {
      const state = await send({ path: "/next", key: newKey() }, (reason) => write("message", `${reason}.`), () => repeats++);
      longest = Math.max(longest, performance.now() - start);
      return state;
    }),
  );
  const revisions = states.map((state) => state.revision).filter((revision) => revision !== undefined);
  const ofAll = revisions.length === LOAD_STEPS ? "" : ` of ${LOAD_STEPS}`;
  const repeated = repeats > 0 ? `; ${repeats} repeated with the same key, each made once` : "";
  const summary = `${revisions.length}${ofAll} steps were answered in ${numbers.format(Math.round(longest))} ms${repeated}`;
  write("load-result", `${summary}.`);
  const sizes = await batches(revisions);
  if (sizes.length > 0) {
    write("load-result", `${summary}: ${sizes.length} ${sizes.length === 1 ? "batch" : "batches"} of ${sizes.join(", ")}.`);
    $("batches").replaceChildren(...sizes.map(dots));
  }
  $("load").disabled = false;
}

/** Return the size of each batch: the steps of one batch have the same time. */
async function batches(revisions) {
  if (revisions.length === 0) return [];
  const last = Math.max(...revisions);
  const limit = Math.min(1000, last - Math.min(...revisions) + 1);
  try {
    const response = await fetch(`/history?limit=${limit}&before=${last + 1}`, { headers: { Accept: "application/json" } });
    if (!response.ok) return [];
    const sizes = new Map();
    for (const { revision, time } of (await response.json()).transitions.reverse()) {
      if (revisions.includes(revision)) sizes.set(time, (sizes.get(time) ?? 0) + 1);
    }
    return [...sizes.values()];
  } catch {
    // The page shows the lost connection, and the responses have been counted.
    return [];
  }
}

function dots(size) {
  return Object.assign(document.createElement("span"), { textContent: "●".repeat(size) });
}

$("load").addEventListener("click", load);
