// Runs once, when the Prompts tab is first opened. Two jobs, both for the whole tab:
// 1. Say which browser this is, so that a run is found again after a reload. The token says whose
//    run it is; it is no password.
// 2. Make a list one stop of the Tab key with arrow keys inside it, as radio buttons should be:
//    Gradio gives every button of a group its own name, so each is a group of one.
const KEY = "stentor-browser-1";
const STEPS = { ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1 };
const panel = element.closest('[role="tabpanel"]');

function token() {
  let known = null;
  try {
    known = localStorage.getItem(KEY);
  } catch {
    // A forbidden storage only costs finding the run again.
  }
  if (known) return known;
  // randomUUID would need https; a class room has plain http.
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  const made = Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
  try {
    localStorage.setItem(KEY, made);
  } catch {
    // As above.
  }
  return made;
}

// All buttons of the list that a radio button belongs to; none for any other element.
function listOf(target) {
  if (!target.matches('input[type="radio"]')) return [];
  return [...target.closest(".wrap").querySelectorAll('input[type="radio"]')];
}

function setStops(event, tabIndex) {
  for (const input of listOf(event.target)) {
    if (input !== event.target) input.tabIndex = tabIndex;
  }
}

panel.addEventListener("focusin", (event) => setStops(event, -1));
panel.addEventListener("focusout", (event) => setStops(event, 0));
panel.addEventListener("keydown", (event) => {
  const list = listOf(event.target);
  const step = STEPS[event.key];
  if (!list.length || !step) return;
  event.preventDefault();
  const next = list[(list.indexOf(event.target) + step + list.length) % list.length];
  next.focus();
  next.click();
});
trigger("arrive", { token: token() });
