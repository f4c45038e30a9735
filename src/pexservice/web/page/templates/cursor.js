// The state that is shown, and its value: folded, laid out, copied.
"use strict";

/** How many digits are shown whole, and how many of each end of a longer value. */
const WHOLE = 120;
const END = 24;

/** How many digits the page lays out at most; copying has all of them. */
const MOST_LAID_OUT = 10_000;

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
  refreshHistory();
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
