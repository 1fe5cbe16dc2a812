// The pair banner. All text is made and escaped by the server; this script shows it, asks again
// while something is being fetched and the page is visible, and passes button presses on.
const POLL_MS = 2000;
let timer = null;
let shown = "";

async function refresh() {
  clearTimeout(timer);
  let answer;
  try {
    answer = await server.describe_pair(props.value);
  } catch {
    timer = setTimeout(refresh, 5 * POLL_MS); // the app is restarting; keep what is shown
    return;
  }
  if (!element.isConnected) return;
  if (answer.html !== shown) {
    shown = answer.html;
    element.querySelector(".pair-banner").innerHTML = shown;
  }
  if (answer.is_busy && !document.hidden) timer = setTimeout(refresh, POLL_MS);
}

element.addEventListener("click", (event) => {
  const button = event.target.closest("button[data-action]");
  if (!button) return;
  button.disabled = true;
  if (button.dataset.action === "fetch_pair") {
    server.fetch_pair().then(refresh, refresh);
  } else if (button.dataset.action === "use_real") {
    trigger("use_real");
  } else {
    trigger("use_demo");
  }
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) refresh();
});
watch("value", refresh);
refresh();
