// The state that is shown, and its value, which can be shortened, shown whole or copied.
"use strict";

/** The most digits that are shown whole, and how many digits of each end of a longer value. */
const MAX_WHOLE_DIGITS = 120;
const END_DIGITS = 24;

/** How many digits are shown at most.  A copy has all digits. */
const MAX_LAID_OUT_DIGITS = 10_000;

/** The state that is shown: the JSON of the API, with the ends of the value. */
let shown = null;

/** Add the number of digits and both ends of the value to a state. */
function withEnds(state) {
  const { current } = state;
  return { ...state, digits: current.length, first: current.slice(0, END_DIGITS), last: current.slice(-END_DIGITS) };
}

/** Read the text representation; its headers have the rest of the state. */
async function fromText(response) {
  const text = (await response.text()).trim();
  return {
    text,
    position: Number(response.headers.get("Pex-Position")),
    revision: Number(response.headers.get("Pex-Revision")),
    digits: text.length,
    first: text.slice(0, END_DIGITS),
    last: text.slice(-END_DIGITS),
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
  const long = state.digits > MAX_WHOLE_DIGITS;
  if (long) {
    const gap = Object.assign(document.createElement("span"), { className: "gap", textContent: "…" });
    $("value").replaceChildren(state.first.slice(0, END_DIGITS), gap, state.last.slice(-END_DIGITS));
  } else {
    write("value", state.current ?? state.text);
  }
  $("value").dataset.length = long || state.digits > 36 ? "long" : state.digits > 14 ? "medium" : "short";
  $("fold").hidden = state.digits <= END_DIGITS;
  $("expand").hidden = !long;
  // An event with a long value has no previous and next value.
  $("before").parentElement.hidden = $("after").parentElement.hidden = state.next === undefined;
  write("before", state.previous ? folded(state.previous) : "nothing");
  write("after", folded(state.next ?? ""));
  if ($("expand").hidden && !$("all").hidden) expand(false);
  if (!$("all").hidden) layOut();
  refreshHistory();
}

/** Return the position and all digits; events leave out the digits of a long value. */
async function digits() {
  if (shown.current !== undefined) return { position: shown.position, text: shown.current };
  const response = await fetch("/current", { headers: { Accept: "text/plain" } });
  if (!response.ok) throw new Error((await response.text()).trim());
  return fromText(response);
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
    // The page shows the lost connection; the next event tries again.
    return;
  }
  laidOut = value.position;
  const { text } = value;
  const left = text.length - MAX_LAID_OUT_DIGITS;
  if (left <= 0) {
    $("all").textContent = text;
  } else {
    const half = MAX_LAID_OUT_DIGITS / 2;
    const note = document.createElement("p");
    note.textContent = `${numbers.format(left)} digits are not shown here; Copy copies all of them.`;
    $("all").replaceChildren(text.slice(0, half), note, text.slice(-half));
  }
});

async function copy() {
  try {
    const value = await digits();
    if (navigator.clipboard) {
      await navigator.clipboard.writeText(value.text);
    } else {
      copyByCommand(value.text);
    }
    write("copied", `F(${numbers.format(value.position)}) is copied.`);
  } catch (error) {
    write("copied", `Not copied: ${error.message}`);
  }
  await after(5000);
  write("copied", "");
}

/** Copy a text.  A page from another machine over plain HTTP has no navigator.clipboard. */
function copyByCommand(text) {
  const fill = (event) => {
    event.clipboardData.setData("text/plain", text);
    event.preventDefault();
  };
  document.addEventListener("copy", fill, { once: true });
  const copied = document.execCommand("copy");
  document.removeEventListener("copy", fill);
  if (!copied) throw new Error("the browser does not allow it; open /current instead");
}

$("expand").addEventListener("click", () => expand($("all").hidden));
$("copy").addEventListener("click", copy);
