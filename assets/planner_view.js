// What the planner shows besides the form: tools, cards, problems with their places, the command and
// the buttons. Part of planner.js, which owns the draft.
const modelTitles = () => new Map([...setup.models, ...setup.checkpoints].map((m) => [m.name, m.title]));

function startTitle() {
  const { start } = plan.draft;
  if (start === null) return "a new model";
  return modelTitles().get(start) ?? nameOfPath(String(start));
}

const cardsView = {
  get plan() {
    return plan;
  },
  get checked() {
    return checked;
  },
  get isAdding() {
    return isAdding;
  },
  get startTitle() {
    return startTitle();
  },
  // What a rehearsal of this very plan measured for a stage.
  needsOf(name) {
    const report = jobs.isStale ? null : jobs.found?.report;
    const stage = report?.stages?.find((needs) => needs.name === name);
    return stage?.seconds ? [["Takes", `about ${asTime(stage.seconds)}`]] : [];
  },
  pick(place) {
    plan.select(place);
    plan.keep();
    drawPipeline();
    drawEditor();
    drawProblems();
  },
  move: (place, to) => moveStage(place, to),
  drop: (place) => dropStage(place),
  add() {
    isAdding = !isAdding;
    drawPipeline();
    if (isAdding) part("kinds").querySelector("button").focus();
  },
};

function drawPipeline() {
  drawCards(part("cards"), cardsView);
  part("kinds").hidden = !isAdding;
}

function drawTools() {
  const undo = element.querySelector('.planner-tools [data-action="undo"]');
  undo.disabled = !plan.canUndo;
  undo.title = plan.canUndo ? `Take back: ${plan.canUndo}` : "Nothing to take back";
  part("presets").value = plan.base ?? "";
}

function drawRuns() {
  part("past").hidden = setup.runs.length === 0;
  const options = setup.runs.map((run) => new Option(run.label, run.id));
  const choose = new Option("a past run", "");
  part("runs").replaceChildren(choose, ...options);
}

function drawAll() {
  drawTools();
  drawPipeline();
  drawEditor();
  drawAbout();
  drawChecked();
}

function drawAbout() {
  const { purpose, notes } = plan.draft;
  part("purpose").textContent = purpose ?? "";
  const lines = Array.isArray(notes) ? notes : [];
  part("notes").replaceChildren(...lines.map((note) => make("li", {}, String(note))));
  part("notes-box").hidden = lines.length === 0;
}

function drawChecked() {
  part("totals").textContent = checked.totals.words;
  drawPipeline();
  drawProblems();
  drawLaunch();
}

function drawProblems() {
  const byPlace = new Map();
  const levels = new Map(); // an error, where there is one, tells how its field looks
  for (const { place, message, level } of checked.problems) {
    byPlace.set(place, [...(byPlace.get(place) ?? []), message]);
    if (levels.get(place) !== "error") levels.set(place, level);
  }
  for (const field of part("editor").querySelectorAll("[data-place]")) {
    const messages = byPlace.get(field.dataset.place) ?? [];
    const line = field.querySelector(":scope > .field-problem");
    if (line) line.textContent = messages.join(" ");
    const isWrong = levels.get(field.dataset.place) === "error";
    field.toggleAttribute("data-wrong", isWrong);
    const control = field.querySelector("input, select, textarea");
    if (field.matches(".field")) control?.setAttribute("aria-invalid", String(isWrong));
  }
  for (const group of part("editor").querySelectorAll("details.group")) {
    const isWrong = group.querySelector("[data-wrong]") !== null;
    group.toggleAttribute("data-has-problem", isWrong);
    if (isWrong && !closed.has(group.dataset.group)) group.open = true;
  }
  const items = checked.problems.map((problem) => {
    const words = make("span", {}, problem.message);
    const goTo = make("button", { type: "button", class: "link-button" }, nameOfPlace(problem.place));
    goTo.addEventListener("click", () => showPlace(problem.place));
    return make("li", { "data-level": problem.level }, goTo, words);
  });
  part("problems").replaceChildren(...items);
}

function nameOfPlace(place) {
  const [head, number] = place.split(".");
  if (head !== "stages" || number === undefined) return "Run";
  return plan.draft.stages[number]?.title || `Stage ${Number(number) + 1}`;
}

function showPlace(place) {
  const [head, number] = place.split(".");
  cardsView.pick(head === "stages" && number !== undefined ? Number(number) : -1);
  const field = [...part("editor").querySelectorAll("[data-place]")]
    .filter((node) => place.startsWith(node.dataset.place))
    .sort((one, other) => other.dataset.place.length - one.dataset.place.length)[0];
  if (!field) return;
  const group = field.closest("details");
  if (group) group.open = true;
  field.scrollIntoView({ block: "center" });
  field.querySelector("input, select, textarea")?.focus({ preventScroll: true });
}

function drawLaunch() {
  const { command } = checked;
  part("command").textContent = command.text || "Mend the problems to see the command.";
  element.querySelector('[data-action="copy"]').disabled = !command.text;
  part("command-help").textContent =
    {
      flags: "Starts this very run from a terminal.",
      file: "Copy saves this recipe in that file; the command starts it from a terminal.",
      download: "Save JSON first; the command starts it from the folder where you saved it.",
    }[command.from] ?? "";
  const button = (name) => part("buttons").querySelector(`[data-action="${name}"]`);
  button("halt").hidden = !jobs.isRunning;
  for (const name of ["start", "check", "rehearse"]) button(name).disabled = jobs.isRunning;
  button("start").textContent = checked.busy ? "Add to the queue" : "Start";
  button("start-anyway").hidden = !jobs.canStartAnyway;
  button("start-anyway").textContent = checked.busy ? "Queue anyway" : "Start anyway";
  button("start").hidden = jobs.canStartAnyway;
  part("busy").textContent = checked.busy ? `${checked.busy} is going; this one waits for it.` : "";
  const { found } = jobs;
  part("report").hidden = !found;
  drawPipeline();
  if (found) drawReport(part("report"), { ...found, titles: titlesOf(), isStale: jobs.isStale });
}

