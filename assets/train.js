// The Training tab's live view. The server makes all HTML (escaped); this script shows it, keeps the
// chosen run, and asks for what is new: while the run is going and this page is in sight, no more.
const POLL_MS = 1000;
const QUEUED_MS = 3000; // for a run in line to start
const IDLE_MS = 10000; // for a newer run to begin
const UNSEEN_MS = 10000; // only for who asked to be notified
const RETRY_MS = 5000;
const memory = makeTabMemory("stentor-run"); // a run, NEWEST, or "new": the planner
const NEWEST = "newest";
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const view = element.querySelector(".monitor");
const menu = element.querySelector(".run-menu select");
const opponents = part("opponents");
const logBox = element.querySelector(".log");
const shown = {};
const seen = { run: "", offset: 0, log_size: null, parts_key: "" };
let timer = null;
let ticket = 0; // the newest question; answers to older ones are thrown away
let isSettled = false; // the first list of runs has decided what to show
let runs = [];
const gone = new Set(); // deleted from here; a list may still be a moment old
let opponentsOf = "";
let stageInSight = "";

const charts = makeCharts(element, {
  plotlyUrl: props.plotly_url,
  askCurves: (question) => server.read_curves(question),
  onMark: (key) => {
    if (samples.goTo(key)) part("samples").scrollIntoView({ block: "nearest" });
  },
  onQuestionChange: () => {
    seen.offset = 0;
    ask();
  },
});
const samples = makeSamples(part("samples"), {
  ask: (question) => server.read_samples(question),
  onMove: (key) => charts.highlight(key),
});
const alerts = makeAlerts(element, say);
const control = makeControl(element, {
  control: (question) => server.control_run(question),
  measure: (run) => server.measure_run(run),
  say,
  onDone: afterAction,
});

const handOver = makeHandOver(element.querySelector(".hand-over"), server.hand_over_run);

function inSight() {
  return !document.hidden && element.offsetParent !== null;
}

function say(text, kind = "info") {
  const line = part("news");
  line.textContent = text;
  line.dataset.kind = kind;
}

function put(name, html) {
  const box = part(name);
  if (!box || shown[name] === html) return;
  shown[name] = html;
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const places = [...box.querySelectorAll("[tabindex]")].map((one) => [one.scrollLeft, one.scrollTop]);
  box.innerHTML = html;
  box.querySelectorAll("[tabindex]").forEach((one, place) => {
    [one.scrollLeft, one.scrollTop] = places[place] ?? [0, 0];
  });
  if (name === "alarms") alerts.hideDismissed();
  if (focused) (box.querySelector(`[data-key="${focused}"]`) ?? box.querySelector("button"))?.focus();
}

function newest() {
  return runs.find((run) => run.is_active) ?? runs[0];
}

function isFollowing() {
  return memory.get() === NEWEST;
}

function listRuns(fresh) {
  runs = fresh.filter((run) => !gone.has(run.id));
  fillRunMenu(menu, runs, newest(), NEWEST);
  menu.value = isFollowing() && seen.run ? NEWEST : seen.run;
  view.toggleAttribute("data-has-runs", runs.length > 0);
  charts.setRuns(runs.filter((run) => run.id !== seen.run).map(({ id, label }) => ({ id, label })));
}

function settle() {
  // Where a new visitor begins: the run chosen before, else the newest, else the form.
  isSettled = true;
  const remembered = memory.get();
  if (remembered === "new") return showForm();
  if (runs.some((run) => run.id === remembered)) return select(remembered);
  if (!runs.length) return showForm();
  select(NEWEST);
}

function display(what) {
  view.dataset.view = what;
  menu.value = isFollowing() && seen.run ? NEWEST : seen.run;
  element.querySelector('[data-action="new"]').setAttribute("aria-pressed", String(what === "new"));
  if (what === "new") alerts.nameTab("");
}

function showForm(value = { run: "" }) {
  leave("");
  memory.set("new");
  props.value = value;
  display("new");
}

function leave(run) {
  Object.assign(seen, { run, offset: 0, log_size: null, parts_key: "" });
  logBox.textContent = "";
}

function select(choice) {
  if (!choice) return;
  const run = choice === NEWEST ? newest()?.id : choice;
  if (!run) return;
  if (seen.run !== run) leave(run);
  memory.set(choice);
  display("run");
  ask(true);
}

function showStage() {
  // Where the cards are a strip: the present stage comes into sight when it begins, not later.
  const strip = element.querySelector(".stages");
  const card = strip?.querySelector('[aria-current], [data-state="failed"], [data-state="died"]');
  const key = `${seen.run} ${[...(strip?.children ?? [])].indexOf(card)}`;
  if (key === stageInSight) return;
  stageInSight = key;
  if (!card) return;
  const start = card.getBoundingClientRect().left - strip.getBoundingClientRect().left;
  strip.scrollLeft += start - 12; // a little of the stage before stays visible
}

function showLog(text) {
  if (logBox.textContent === text) return;
  const atEnd = logBox.scrollHeight - logBox.scrollTop - logBox.clientHeight < 24;
  logBox.textContent = text;
  if (atEnd) logBox.scrollTop = logBox.scrollHeight;
}

async function ask(wantsRuns = false) {
  clearTimeout(timer);
  const mine = ++ticket;
  const question = { ...seen, ...charts.question(), wants_runs: wantsRuns };
  let reply;
  try {
    reply = await server.watch_run(question);
  } catch {
    // The app is away or starting anew; the run goes on without it.
    if (mine === ticket) {
      say("No answer from the playground. The run goes on; trying again.", "warning");
      timer = setTimeout(() => ask(true), RETRY_MS);
    }
    return;
  }
  if (mine !== ticket || !element.isConnected) return;
  if (part("news").dataset.kind === "warning") say("");
  show(reply);
}

function show(reply) {
  if (reply.runs) {
    listRuns(reply.runs);
    if (!isSettled) return settle();
    if (isFollowing() && seen.run && newest() && newest().id !== seen.run) return select(NEWEST);
  }
  if (reply.error) return recover(reply.error);
  if (reply.run !== seen.run || !seen.run) return;
  const isNewState = view.dataset.state !== reply.state;
  view.dataset.state = reply.state;
  Object.entries(reply.parts ?? {}).forEach(([name, html]) => put(name, html));
  showStage();
  seen.parts_key = reply.parts_key;
  // Where training is refused, only the owner may read these two, in a terminal.
  view.toggleAttribute("data-is-private", reply.command === undefined);
  part("command").textContent = reply.command ?? "";
  seen.log_size = reply.log_size;
  if (reply.log !== undefined) showLog(reply.log);
  const taken = charts.take(reply.run, reply);
  view.toggleAttribute("data-is-empty", taken.isEmpty);
  seen.offset = taken.wantsWhole ? 0 : reply.offset;
  Promise.resolve(charts.draw()).catch((error) => say(error.message, "error"));
  samples.take(reply.run, reply.marks ?? []).catch((error) => say(error.message, "error"));
  const heading = element.querySelector("h3[data-title]");
  const words = { words: heading.dataset.title, stateWords: heading.querySelector(".pill").textContent };
  alerts.take({ ...reply, ...words });
  listOpponents(reply.run).catch((error) => say(error.message, "error"));
  if (isNewState && !reply.is_active && part("news").dataset.kind === "info") say(""); // came true
  if (isNewState && !reply.runs) return ask(true); // the list names the state too
  askLater(reply);
}

function askLater(reply) {
  const isWaiting = reply.state === "queued" || isFollowing();
  if (inSight() && reply.is_active) timer = setTimeout(ask, POLL_MS);
  else if (inSight() && isWaiting) {
    timer = setTimeout(() => ask(true), reply.state === "queued" ? QUEUED_MS : IDLE_MS);
  } else if (alerts.isOn() && (reply.is_active || isWaiting)) timer = setTimeout(ask, UNSEEN_MS, true);
}

async function recover(message) { // deleted in another browser, perhaps
  say(message, "error");
  const reply = await server.watch_run({ run: "", wants_runs: true });
  const isListed = !reply.runs || reply.runs.some((run) => run.id === seen.run);
  if (isListed) return void (timer = setTimeout(() => ask(true), RETRY_MS));
  begin();
  show(reply);
  say(message, "error");
}

function begin() {
  leave("");
  memory.set(null);
  isSettled = false;
}

async function listOpponents(run) {
  // Asked for when the list of checkpoints has changed, which is when a choice may have come or gone.
  const signature = `${run} ${shown.checkpoints}`;
  if (signature === opponentsOf) return;
  opponentsOf = signature;
  const reply = await server.list_opponents(run);
  if (reply.error || run !== seen.run) return;
  const chosen = opponents.value;
  opponents.innerHTML = reply.html;
  if ([...opponents.options].some((option) => option.value === chosen)) opponents.value = chosen;
}

function afterAction(action, isDone) {
  delete shown.actions; // the server's view of the buttons counts, not the disabled one
  seen.parts_key = "";
  if (action === "delete" && isDone) {
    const news = part("news").textContent;
    gone.add(seen.run);
    begin();
    say(news);
  }
  ask(true);
}

async function act(button) {
  const { action, reference } = button.dataset;
  if (action === "new") return showForm();
  if (action === "copy") return copyCommand();
  if (action === "dismiss") return alerts.dismiss(button);
  if (action === "open") {
    props.value = { run: seen.run, open: reference, against: opponents.value };
    return trigger("open_checkpoint");
  }
  if (action === "clone") {
    showForm({ run: seen.run, clone: seen.run });
    return trigger("clone_run");
  }
  if (action === "hand_over") return handOver.open(seen.run);
  return control.press(button, seen.run);
}

async function copyCommand() {
  const text = part("command").textContent;
  try {
    await navigator.clipboard.writeText(text);
    say("Command copied.");
  } catch {
    // No clipboard without https: select the text, so that Ctrl-C copies it.
    getSelection().selectAllChildren(part("command"));
    say("Press Ctrl-C to copy the selected command.");
  }
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (button) act(button).catch((error) => say(error.message, "error"));
});
menu.addEventListener("change", () => {
  say("");
  select(menu.value);
});
menu.addEventListener("focus", () => ask(true));
document.addEventListener("visibilitychange", () => inSight() && ask(true));
// The Gradio tab was opened (or closed): a hidden element takes no room.
new IntersectionObserver((entries) => {
  if (entries.at(-1).isIntersecting && inSight()) {
    Promise.resolve(charts.draw()).catch((error) => say(error.message, "error"));
    ask(true);
  }
}).observe(view);
watch("value", () => {
  // Start was pressed; what began is above the form that was filled in.
  const value = props.value ?? {};
  if (!value.run || value.clone || value.open) return;
  select(value.run);
  view.scrollIntoView({ block: "start" });
});
