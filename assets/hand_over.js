// Handing a finished run over: a dialog with the options of the server, then how far it is. The work
// goes on when the dialog or the page is closed.
const HAND_OVER_POLL_MS = 1500;

function makeHandOver(dialog, ask) {
  // dialog: holds fields, news and the two buttons. ask: async ({run, settings?}) => reply
  const part = (name) => dialog.querySelector(`[data-part="hand-over-${name}"]`);
  const [fields, news, start] = ["fields", "news", "start"].map(part);
  let run = "";
  let settings = {};
  let timer = null;

  function say(text, kind = "info") {
    news.textContent = text;
    news.dataset.kind = kind;
  }

  function fill(options) {
    settings = Object.fromEntries(options.map((option) => [option.name, option.default]));
    const made = options.map((option) =>
      makeField(option, option.name, option.default, (value) => (settings[option.name] = value)),
    );
    fields.replaceChildren(...made);
  }

  function show(reply) {
    clearTimeout(timer);
    if (reply.error) say(reply.error, "error");
    else if (reply.state === "running") {
      say(`Writing: ${reply.news}`);
      if (dialog.open) timer = setTimeout(() => tell({ run }), HAND_OVER_POLL_MS);
    } else if (reply.state === "finished") say(`The model folder is ${reply.news}`, "good");
    else if (reply.state === "failed") say(reply.news, "error");
    else say("");
    start.disabled = reply.state === "running";
  }

  async function tell(question) {
    const asked = run;
    try {
      const reply = await ask(question);
      if (asked === run) show(reply);
      return reply;
    } catch {
      say("No answer from the playground.", "error");
      return null;
    }
  }

  async function open(chosen) {
    run = chosen;
    fields.replaceChildren();
    say("");
    dialog.showModal();
    const reply = await tell({ run });
    if (reply && !reply.error) fill(reply.options);
  }

  start.addEventListener("click", () => {
    start.disabled = true;
    say("Starting.");
    tell({ run, settings });
  });
  dialog.addEventListener("close", () => clearTimeout(timer));
  return { open };
}
