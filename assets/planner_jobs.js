// A check or a rehearsal of the plan: started, followed, stopped; and the start of the run, which
// needs a check of this very plan. The job is kept in sessionStorage, so that a reload finds it.
const KEPT_JOB = "stentor-plan-job";
const JOB_POLL_MS = 700;
const JOB_NEWS = { check: "Checking the plan", rehearse: "Rehearsing 20 steps" };

// `view`: {server, say(text, kind), draft(), digest(), queue(), changed(), reveal(),
// started(run)}
function makeJobs(view) {
  // found: {kind, report}; wants: whether the run is to start when the check is done.
  const NONE = { job: "", kind: "", digest: "", wants: false, found: null, anyway: false };
  let state = { ...NONE, isRunning: false };
  let timer = null;

  function keep() {
    try {
      sessionStorage.setItem(KEPT_JOB, JSON.stringify({ ...state, wants: false }));
    } catch {
      // A forbidden storage only costs finding the job after a reload.
    }
  }

  function levels() {
    return new Set((state.found?.report.problems ?? []).map((problem) => problem.level));
  }

  async function begin(kind, wants = false) {
    clearTimeout(timer);
    state = { ...NONE, kind, digest: view.digest(), wants, isRunning: true };
    view.say(`${JOB_NEWS[kind]} ...`);
    view.changed();
    const reply = await view.server.start_job({ kind, draft: view.draft() });
    if (reply.error) {
      state.isRunning = false;
      view.say(reply.error, "error");
      return view.changed();
    }
    state.job = reply.job;
    keep();
    view.changed();
    return follow();
  }

  async function follow() {
    const { job } = state;
    let reply;
    try {
      reply = await view.server.read_job({ job });
    } catch {
      view.say("No answer from the playground; trying again.", "warning");
      timer = setTimeout(follow, 5 * JOB_POLL_MS);
      return;
    }
    if (job !== state.job) return;
    if (!reply.error && reply.state === "running") {
      view.say(reply.news || `${JOB_NEWS[state.kind]} ...`);
      timer = setTimeout(follow, JOB_POLL_MS);
      return;
    }
    finish(reply);
  }

  async function finish(reply) {
    const { kind, wants } = state;
    state.isRunning = false;
    state.found = reply.report ? { kind, report: reply.report } : null;
    const failed = reply.error || (reply.state !== "finished" && (reply.news || "It ended early."));
    view.say(failed || "", failed ? "error" : "info");
    keep();
    view.changed();
    if (!failed && !(wants && !levels().size)) view.reveal();
    if (failed || !wants) return;
    if (levels().has("error")) return view.say("Not started: mend the errors first.", "error");
    if (!levels().has("warning")) return launch();
    state.anyway = true;
    view.say("Not started yet: the check found warnings.", "warning");
    view.changed();
  }

  async function launch(anyway = false) {
    view.say("Starting ...");
    const question = { draft: view.draft(), job: state.job, anyway, queue: view.queue() };
    const reply = await view.server.start_plan(question);
    state.anyway = false;
    if (reply.error) view.say(reply.error, "error");
    else view.say("");
    view.changed();
    if (reply.run) view.started(reply.run);
  }

  return {
    begin,
    get isRunning() {
      return state.isRunning;
    },
    get found() {
      return state.found;
    },
    get canStartAnyway() {
      return state.anyway && state.digest === view.digest();
    },
    get isStale() {
      return state.digest !== view.digest();
    },
    // A finished check or rehearsal of this very plan counts; anything else is checked first.
    start() {
      const isChecked = state.found && !this.isStale && !levels().has("error");
      if (!isChecked) return begin("check", true);
      if (!levels().has("warning")) return launch();
      state.anyway = true;
      view.say("Not started yet: the check found warnings.", "warning");
      return view.changed();
    },
    startAnyway() {
      return launch(true);
    },
    async stop() {
      clearTimeout(timer);
      const { job } = state;
      state = { ...NONE, isRunning: false };
      view.say("Stopped.");
      view.changed();
      if (job) await view.server.stop_job({ job });
    },
    restore() {
      try {
        const kept = JSON.parse(sessionStorage.getItem(KEPT_JOB));
        if (!kept?.job) return;
        state = { ...state, ...kept };
        view.changed();
        if (state.isRunning) follow();
      } catch {
        // Nothing kept.
      }
    },
  };
}
