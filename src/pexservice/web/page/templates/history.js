// The latest transitions, looked up when the cursor has moved.
"use strict";

const times = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

const refreshHistory = paced(1000, async () => {
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
