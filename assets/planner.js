// The planner: a recipe as cards, the options of the chosen one, the command, and Check and Start.
// The draft lives in this browser (planner_draft.js); the server checks every change of it.
const CHECK_MS = 350;
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const root = element.querySelector(".planner");
const plan = makePlan();
const nothing = { problems: [], cards: [], totals: { words: "" }, command: { text: "" }, digest: "" };
let setup = null; // what the server sent at first: forms, recipes, menus
let checked = nothing;
let checkTimer = null;
let ticket = 0; // the newest check; answers to older ones are thrown away
let isAdding = false;
const closed = new Set(); // headings of groups that were opened or closed by hand
const opened = new Set();
const OPEN_GROUPS = 3;

function say(text, kind = "info", line = "news") {
  part(line).textContent = text;
  part(line).dataset.kind = kind;
}

const sayJob = (text, kind) => say(text, kind, "job");
const titlesOf = () => Object.fromEntries(plan.draft.stages.map((s) => [s.name, s.title || s.name]));

const jobs = makeJobs({
  server,
  say: sayJob,
  draft: () => plan.draft,
  digest: () => checked.digest,
  queue: () => Boolean(checked.busy),
  changed: () => drawLaunch(),
  reveal: () => part("report").scrollIntoView({ block: "nearest" }),
  started(run) {
    say("");
    props.value = { run };
    trigger("started");
  },
});

// Changes of the draft ----------------------------------------------------------------------

function edited() {
  plan.keep();
  part("purpose").textContent = plan.draft.purpose ?? "";
  drawTools();
  clearTimeout(checkTimer);
  checkTimer = setTimeout(check, CHECK_MS);
}

function restructured(news = "") {
  isAdding = false;
  say(news);
  edited();
  drawAll();
  clearTimeout(checkTimer);
  check();
}

async function check(wantsLists = false) {
  const mine = ++ticket;
  let reply;
  try {
    reply = await server.check_draft({ draft: plan.draft, wants_lists: wantsLists });
  } catch {
    if (mine === ticket) say("No answer from the playground; your plan is kept.", "warning");
    return;
  }
  if (mine !== ticket) return;
  if (reply.error) return say(reply.error, "error");
  if (part("news").dataset.kind === "warning") say("");
  checked = reply;
  const news = wantsLists && JSON.stringify([reply.texts, reply.checkpoints]);
  const known = JSON.stringify([setup.texts, setup.checkpoints]);
  if (wantsLists) {
    for (const name of ["texts", "runs", "checkpoints"]) setup[name] = reply[name];
    drawRuns();
  }
  if (wantsLists && news !== known) drawEditor();
  drawChecked();
}

const edit = {
  write(place, value) {
    plan.write(place, value, `change ${place.split(".").pop().replaceAll("_", " ")}`);
    if (plan.selected === -1 || place.endsWith(".title")) drawPipeline();
    edited();
  },
};

function defaultsOf(kind) {
  const { options } = setup.schema.settings[kind];
  const values = Object.values(options).map((option) => [option.name, copyOf(option.default)]);
  return Object.fromEntries(values);
}

function addStage(kind) {
  const title = setup.schema.kind_titles[kind];
  const stage = { name: kind === "pretrain" ? "train" : kind, kind, title, skip: false };
  const place = kind === "create" ? 0 : plan.draft.stages.length;
  plan.insert({ ...stage, settings: defaultsOf(kind) }, place, `add ${title}`);
  restructured(`Added: ${title}.`);
  element.querySelector(".plan-editor h3")?.focus();
}

const actions = {
  earlier: () => moveStage(plan.selected, plan.selected - 1),
  later: () => moveStage(plan.selected, plan.selected + 1),
  skip() {
    const place = `stages.${plan.selected}.skip`;
    const isSkipped = !plan.stage.skip;
    plan.write(place, isSkipped, `${isSkipped ? "skip" : "include"} ${plan.stage.title}`);
    restructured(isSkipped ? "Skipped: it stays in the plan, the run leaves it out." : "Included.");
  },
  duplicate() {
    plan.insert(plan.stage, plan.selected + 1, `copy ${plan.stage.title}`);
    restructured("Copied.");
  },
  drop: () => dropStage(plan.selected),
  undo() {
    const what = plan.undo();
    if (what) restructured(`Taken back: ${what}.`);
  },
  restart() {
    usePlan(plan.origin, plan.base, "Started over. Undo brings your changes back.");
  },
  load: loadFile,
  save: saveFile,
  copy: copyCommand,
  start: () => guardedByProblems(() => jobs.start()),
  "start-anyway": () => jobs.startAnyway(),
  check: () => guardedByProblems(() => jobs.begin("check")),
  rehearse: () => guardedByProblems(() => jobs.begin("rehearse")),
  halt: () => jobs.stop(),
};

function moveStage(place, to) {
  if (!plan.move(place, to)) return false;
  restructured(`Now stage ${to + 1} of ${plan.draft.stages.length}.`);
  return true;
}

function dropStage(place) {
  if (plan.draft.stages.length === 1) return say("A plan needs at least one stage.");
  const { title } = plan.draft.stages[place];
  plan.drop(place);
  restructured(`Dropped ${title}. `);
  const undo = make("button", { type: "button", class: "link-button", "data-action": "undo" }, "Undo");
  part("news").append(undo);
}

function usePlan(draft, base, news) {
  plan.begin(draft, base, "the change of plan");
  plan.select(0);
  restructured(news);
}

function guardedByProblems(work) {
  const errors = checked.problems.filter((problem) => problem.level === "error").length;
  if (!errors) return work();
  sayJob(`${errors === 1 ? "One problem is" : `${errors} problems are`} in the way; see above.`, "error");
  part("problems").scrollIntoView({ block: "nearest" });
}

// Files and the clipboard -------------------------------------------------------------------

function loadFile() {
  const input = make("input", { type: "file", accept: ".json,application/json" });
  input.addEventListener("change", async () => {
    const [file] = input.files;
    if (!file) return;
    if (file.size > 1_000_000) return say(`${file.name} is larger than 1 MB; no recipe is.`, "error");
    const reply = await server.load_recipe({ text: await file.text() });
    if (reply.error) return say(`${file.name}: ${reply.error}`, "error");
    usePlan(reply.draft, null, `Loaded ${file.name}.`);
  });
  input.click();
}

function saveFile() {
  const blob = new Blob([`${JSON.stringify(plan.draft, null, 2)}\n`], { type: "application/json" });
  const url = URL.createObjectURL(blob);
  const stem = String(plan.draft.name || "recipe").toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const name = checked.command.from === "download" ? checked.command.file : `${stem}.json`;
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1_000);
  say(`Saved as ${name}.`);
}

async function copyCommand() {
  if (checked.command.from === "file") {
    const reply = await server.save_command({ draft: plan.draft });
    if (reply.error) return sayJob(reply.error, "error");
  }
  try {
    await navigator.clipboard.writeText(part("command").textContent);
    sayJob("Command copied.");
  } catch {
    // No clipboard without https: select the text, so that Ctrl-C copies it.
    getSelection().selectAllChildren(part("command"));
    sayJob("Press Ctrl-C to copy the selected command.");
  }
}

async function cloneRun(run) {
  if (!run) return;
  const reply = await server.clone_recipe({ run });
  part("runs").value = "";
  if (reply.error) return say(reply.error, "error");
  usePlan(reply.draft, null, `Cloned ${run}. Change what you like, then start it.`);
}

// Beginning ---------------------------------------------------------------------------------

function drawSetup() {
  const presets = setup.presets.map((preset) => new Option(preset.title, preset.name));
  const own = new Option("Your own plan", "");
  own.hidden = true;
  part("presets").replaceChildren(own, ...presets);
  const kinds = Object.entries(setup.schema.kind_titles).map(([kind, title]) => {
    const button = make("button", { type: "button", class: "plain-button" }, title);
    button.addEventListener("click", () => addStage(kind));
    return button;
  });
  part("kinds").replaceChildren(...kinds);
  drawRuns();
  root.toggleAttribute("data-refused", Boolean(setup.refusal));
  part("refusal").textContent = setup.refusal;
  part("refusal").hidden = !setup.refusal;
  part("buttons").hidden = Boolean(setup.refusal);
}

async function begin() {
  setup = await server.read_planner({});
  drawSetup();
  if (!plan.restore()) plan.begin(setup.presets[0].draft, setup.presets[0].name, "");
  root.dataset.state = "ready";
  drawAll();
  await check();
  if (!setup.refusal) jobs.restore();
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button || button.disabled) return;
  Promise.resolve(actions[button.dataset.action]()).catch((error) => say(error.message, "error"));
});
part("presets").addEventListener("change", () => {
  const preset = setup.presets.find(({ name }) => name === part("presets").value);
  usePlan(preset.draft, preset.name, "Undo brings the plan before back.");
});
part("runs").addEventListener("change", () => cloneRun(part("runs").value));
element.addEventListener("keydown", (event) => {
  const isTyping = event.target.matches("input, textarea");
  if (!isTyping && event.key === "z" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    actions.undo();
  }
});
connectCards(part("cards"), cardsView);
watch("value", () => {
  const value = props.value ?? {};
  if (value.clone) return cloneRun(value.clone);
  if (value.kept) {
    say(`Kept ${value.kept.join(", ")}. Choose it in a stage, as a text of the kind Your own files.`);
    check(true);
  }
});
// Shown again (another view or tab was open): other people's runs and files may have come.
new IntersectionObserver((entries) => {
  if (entries.at(-1).isIntersecting && root.dataset.state === "ready") check(true);
}).observe(root);
begin().catch((error) => say(error.message, "error"));
