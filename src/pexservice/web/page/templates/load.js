// A small load, and the batches that its steps were committed in.
"use strict";

const LOAD = 20;

async function load() {
  $("load").disabled = true;
  $("batches").replaceChildren();
  write("load-result", `${LOAD} steps are under way …`);
  const begun = performance.now();
  let longest = 0;
  let repeats = 0;
  const states = await Promise.all(
    Array.from({ length: LOAD }, async () => {
      const state = await send({ path: "/next", key: newKey() }, (why) => write("message", `${why}.`), () => repeats++);
      longest = Math.max(longest, performance.now() - begun);
      return state;
    }),
  );
  const revisions = states.map((each) => each.revision).filter((each) => each !== undefined);
  const all = revisions.length === LOAD ? "" : ` of ${LOAD}`;
  const again = repeats > 0 ? `; ${repeats} times a step was sent again with its key, and made once` : "";
  const words = `${revisions.length}${all} steps were answered in ${numbers.format(Math.round(longest))} ms${again}`;
  write("load-result", `${words}.`);
  const sizes = await batches(revisions);
  if (sizes.length > 0) {
    write("load-result", `${words}: ${sizes.length} ${sizes.length === 1 ? "batch" : "batches"} of ${sizes.join(", ")}.`);
    $("batches").replaceChildren(...sizes.map(dots));
  }
  $("load").disabled = false;
}

/** How many of the steps each batch had: those of one batch have one time. */
async function batches(revisions) {
  if (revisions.length === 0) return [];
  const last = Math.max(...revisions);
  const limit = Math.min(1000, last - Math.min(...revisions) + 1);
  try {
    const answer = await fetch(`/history?limit=${limit}&before=${last + 1}`, { headers: { Accept: "application/json" } });
    if (!answer.ok) return [];
    const sizes = new Map();
    for (const { revision, time } of (await answer.json()).transitions.reverse()) {
      if (revisions.includes(revision)) sizes.set(time, (sizes.get(time) ?? 0) + 1);
    }
    return [...sizes.values()];
  } catch {
    // The connection is shown as what it is, and the answers have been counted.
    return [];
  }
}

function dots(size) {
  return Object.assign(document.createElement("span"), { textContent: "●".repeat(size) });
}

$("load").addEventListener("click", load);
