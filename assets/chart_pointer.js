// The pointer over the loss: samples and alarms show a note, a click on a sample opens it. The note
// is our own element, made of text nodes, because texts of models and runs are untrusted.

const MARK_REACH = 11; // pixels around a sample's marker; a fingertip's aim gets twice as much
const LINE_REACH = 8; // pixels beside the line of an alarm or a resume
const LINE_STRIP = 40; // pixels from the top of the panel
const CLICK_REACH = 5; // pixels that a click may wander
const MAX_NOTE_TEXTS = 4;
const NOTE_WIDTH = 300; // pixels, as in charts.css

function placeInPlot(node, event) {
  // {x, y} of the pointer inside the loss panel, its size and ranges; null outside of it.
  const box = node.querySelector('.nsewdrag[data-subplot="xy"]')?.getBoundingClientRect();
  const { xaxis, yaxis } = node.layout ?? {};
  if (!box || !xaxis?.range || !yaxis?.range) return null;
  const x = event.clientX - box.left;
  const y = event.clientY - box.top;
  const isInside = (value, size) => value >= -MARK_REACH && value <= size + MARK_REACH;
  if (!isInside(x, box.width) || !isInside(y, box.height)) return null;
  const toPixels = ([from, to], value, size) => ((value - from) / (to - from)) * size;
  const onAxis = (value) => (yaxis.type === "log" ? Math.log10(value) : value);
  return {
    x,
    y,
    box,
    xOf: (value) => toPixels(xaxis.range, value, box.width),
    yOf: (value) => box.height - toPixels(yaxis.range, onAxis(value), box.height),
  };
}

function markAt(view, place, reach) {
  // A sample is hit around its marker; the nearest one wins.
  let best = null;
  let least = reach;
  for (const mark of view.marks) {
    const distance = Math.hypot(
      place.xOf(mark.x / view.unit.divisor) - place.x,
      place.yOf(mark.y) - place.y,
    );
    if (distance > least) continue;
    least = distance;
    best = mark;
  }
  return best;
}

function lineAt(view, place) {
  // The alarm or the resume whose line is near, at the top of the panel: below are the values.
  if (place.y > LINE_STRIP) return null;
  const isNear = (x) => Math.abs(place.xOf(x / view.unit.divisor) - place.x) < LINE_REACH;
  const alarm = shownAlarms(view).find((one) => isNear(one.x));
  if (alarm) return { kind: "alarm", thing: alarm, place };
  const x = view.resumes.find(isNear);
  return x === undefined ? null : { kind: "resume", thing: x, place };
}

function makeChartPointer(node, view, options) {
  // options: { onMark(key) or null where there are no samples, onDrag(isDragging) }
  const note = document.createElement("div");
  note.className = "chart-note";
  note.setAttribute("role", "tooltip");
  note.hidden = true;
  node.parentElement.append(note);
  let pressed = null;
  let shown = null;

  function find(event) {
    const place = placeInPlot(node, event);
    if (!place) return null;
    const reach = event.pointerType === "touch" ? 2 * MARK_REACH : MARK_REACH;
    const hasMarks = options.onMark && !view.hidden.has("marks");
    const mark = hasMarks ? markAt(view, place, reach) : null;
    if (mark) return { kind: "mark", thing: mark, place };
    return lineAt(view, place);
  }

  function addLine(text, className) {
    const line = document.createElement("p");
    line.className = className;
    line.textContent = text;
    note.append(line);
  }

  function fillNote({ kind, thing }) {
    note.replaceChildren();
    if (kind === "alarm") {
      const word = thing.state === "cleared" ? "Alarm, now over" : "Alarm";
      addLine(`${word}: ${ALARM_NAMES[thing.alarm] ?? thing.alarm}`, "chart-note-title");
      addLine(String(thing.message ?? ""), "");
      return;
    }
    if (kind === "resume") {
      addLine("Resumed here", "chart-note-title");
      addLine("The run had stopped and went on from its last checkpoint.", "");
      return;
    }
    const step = thing.step.toLocaleString("en-GB");
    addLine(`Samples, ${thing.title}, step ${step}`, "chart-note-title");
    thing.texts.slice(0, MAX_NOTE_TEXTS).forEach((text) => addLine(text, "chart-note-text"));
    addLine("Click to walk through the samples.", "chart-note-hint");
  }

  function show(found) {
    const thing = found?.thing ?? null;
    node.toggleAttribute("data-on-mark", found?.kind === "mark");
    node.toggleAttribute("data-on-note", !!found);
    if (thing === shown) return;
    shown = thing;
    note.hidden = !found;
    if (!found) return;
    fillNote(found);
    const frame = note.parentElement.getBoundingClientRect();
    const { box, x, y } = found.place;
    const left = box.left - frame.left + x + 14;
    note.style.left = `${Math.max(4, Math.min(left, frame.width - NOTE_WIDTH - 8))}px`;
    note.style.top = `${box.top - frame.top + y + 16}px`;
  }

  function press(event) {
    if (event.button !== 0) return;
    pressed = event;
    options.onDrag(true);
  }

  node.addEventListener("pointerdown", press, true); // before Plotly, which keeps it to itself

  function release(event) {
    if (!pressed) return;
    const start = pressed;
    pressed = null;
    options.onDrag(false);
    if (event.type !== "pointerup") return;
    const moved = Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY);
    if (moved > CLICK_REACH) return;
    const found = find(event);
    if (found?.kind === "mark") options.onMark(found.thing.key);
  }

  for (const kind of ["pointerup", "pointercancel", "blur"]) window.addEventListener(kind, release);
  node.addEventListener("pointermove", (event) => show(pressed ? null : find(event)));
  node.addEventListener("pointerleave", () => show(null));
}
