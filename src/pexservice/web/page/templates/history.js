// The latest transitions, read again when the cursor has moved.
"use strict";

const times = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

const refreshHistory = paced(1000, async () => {
  let transitions;
  try {
    const response = await fetch("/history?limit=10", { headers: { Accept: "application/json" } });
    if (!response.ok) return;
    ({ transitions } = await response.json());
  } catch {
    // The page shows the lost connection; the next event tries again.
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
  const element = document.createElement("tr");
  element.append(
    ...cells.map((content) => {
      const cell = document.createElement("td");
      cell.append(content);
      return cell;
    }),
  );
  return element;
}
