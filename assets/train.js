// The Training tab's live view. The server makes all HTML (escaped); this script shows it, keeps the
// chosen run, and asks for what is new: while the run is going and this page is in sight, no more.
const POLL_MS = 1500;
const RETRY_MS = 5000;
const REMEMBERED = "stentor-run";
const part = (name) => element.querySelector(`[data-part="${name}"]`);
const view = element.querySelector(".monitor");
const menu = element.querySelector("select");
const logBox = element.querySelector(".log");
const chart = makeChart(element.querySelector(".chart"), props.plotly_url);
const shown = {};
const seen = { run: "", offset: 0, log_size: null };
let timer = null;
let ticket = 0; // the newest question; answers to older ones are thrown away
let isSettled = false; // the first list of runs has decided what to show

function inSight() {
  return !document.hidden && element.offsetParent !== null;
}

function say(text, kind = "info") {
  const line = part("news");
  line.textContent = text;
  line.dataset.kind = kind;
}

function put(name, html) {
  if (shown[name] === html) return;
  shown[name] = html;
  const box = part(name);
  const focused = box.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  box.innerHTML = html;
  if (focused) box.querySelector(`[data-key="${focused}"]`)?.focus();
}

function listRuns(runs) {
  const signature = JSON.stringify(runs);
  if (menu.dataset.signature === signature) return;
  menu.dataset.signature = signature;
  const choose = new Option(`Choose one of ${runs.length}`, "");
  choose.hidden = true;
  menu.replaceChildren(choose, ...runs.map((run) => new Option(run.label, run.id)));
  menu.value = seen.run;
  view.toggleAttribute("data-has-runs", runs.length > 0);
}

function settle(runs) {
  // Where a new visitor begins: the run chosen before, a run that is going, the newest, or the form.
  isSettled = true;
  const remembered = sessionStorage.getItem(REMEMBERED);
  const chosen =
    remembered === "new"
      ? null
      : (runs.find((run) => run.id === remembered) ?? runs.find((run) => run.is_active) ?? runs[0]);
  if (chosen) select(chosen.id);
  else showForm();
}

function display(what) {
  view.dataset.view = what;
  menu.value = seen.run;
  element.querySelector('[data-action="new"]').setAttribute("aria-pressed", String(what === "new"));
}

function showForm() {
  seen.run = "";
  seen.offset = 0;
  sessionStorage.setItem(REMEMBERED, "new");
  props.value = { run: "" };
  display("new");
}

function select(run) {
  if (!run) return;
  if (seen.run !== run) {
    seen.run = run;
    seen.offset = 0;
    seen.log_size = null;
    logBox.textContent = "";
    say("");
  }
  sessionStorage.setItem(REMEMBERED, run);
  display("run");
  ask(true);
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
  const question = { ...seen, wants_runs: wantsRuns };
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
    if (!isSettled) return settle(reply.runs);
  }
  if (reply.error) {
    say(reply.error, "error");
    return;
  }
  if (reply.run !== seen.run || !seen.run) return;
  const isNewState = view.dataset.state !== reply.state;
  view.dataset.state = reply.state;
  Object.entries(reply.parts).forEach(([name, html]) => put(name, html));
  // Where training is refused, only the owner may read these two, in a terminal.
  view.toggleAttribute("data-is-private", reply.command === undefined);
  part("command").textContent = reply.command ?? "";
  seen.log_size = reply.log_size;
  if (reply.log !== undefined) showLog(reply.log);
  const taken = chart.take(reply.run, reply);
  view.toggleAttribute("data-is-empty", taken.isEmpty);
  seen.offset = taken.isTooLong ? 0 : reply.offset;
  if (taken.hasNew) chart.draw().catch((error) => say(error.message, "error"));
  if (isNewState && !reply.is_active && part("news").dataset.kind === "info") say(""); // came true
  if (isNewState && !reply.runs) return ask(true); // the list names the state too
  if (reply.is_active && inSight()) timer = setTimeout(ask, POLL_MS);
}

async function act(button) {
  const { action, reference } = button.dataset;
  if (action === "new") return showForm();
  if (action === "copy") return copyCommand();
  if (action === "open") {
    props.value = { run: seen.run, open: reference };
    return trigger("open_checkpoint");
  }
  button.disabled = true;
  const reply = action === "stop" ? await server.stop_run(seen.run) : await server.resume_run(seen.run);
  delete shown.actions; // the server's view of the buttons counts, not the disabled one
  say(reply.error ?? reply.news, reply.error ? "error" : "info");
  ask(true);
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
menu.addEventListener("change", () => select(menu.value));
menu.addEventListener("focus", () => ask(true));
document.addEventListener("visibilitychange", () => inSight() && ask(true));
// The Gradio tab was opened (or closed): a hidden element takes no room.
new IntersectionObserver((entries) => {
  if (entries.at(-1).isIntersecting && inSight()) {
    chart.draw().catch((error) => say(error.message, "error"));
    ask(true);
  }
}).observe(view);
watch("value", () => {
  // Start was pressed; what began is above the form that was filled in.
  select(props.value?.run);
  view.scrollIntoView({ block: "start" });
});
