// One model's pane. The server sends data, never HTML: all text goes through textContent, so
// nothing a model writes can become markup. Text is appended, so selection and scroll survive.
const pane = element.querySelector(".pane");
const part = (name) => pane.querySelector(`.pane-${name}`);
let shownText = "";

function draw() {
  const view = props.value || {};
  pane.dataset.state = view.state || "idle";
  part("title").textContent = view.title || "";
  part("meta").textContent = view.meta || "";
  const prompt = view.prompt || "";
  if (part("prompt").textContent !== prompt) part("prompt").textContent = prompt;
  const text = view.text || "";
  if (text.startsWith(shownText)) {
    if (text.length > shownText.length) part("text").append(text.slice(shownText.length));
  } else {
    part("text").textContent = text;
  }
  shownText = text;
  part("figures").textContent = view.figures || "";
  part("message").textContent = view.message || "";
  part("message").hidden = !view.message;
  pane.setAttribute("aria-busy", String(["loading", "waiting", "running"].includes(view.state)));
  const body = part("body");
  body.scrollTop = body.scrollHeight; // only moves when the text is longer than the pane
}

watch("value", draw);
draw();
