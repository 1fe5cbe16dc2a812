// What this browser generated, newest first. It lives in localStorage and goes to the server only
// when an entry is opened again. Each new value of the component is one new entry.
const KEY = "stentor-history-1";
const MOST = 30;
const list = element.querySelector(".history");

function read() {
  try {
    const entries = JSON.parse(localStorage.getItem(KEY));
    return Array.isArray(entries) ? entries : [];
  } catch {
    return [];
  }
}

function write(entries) {
  const kept = entries.slice(0, MOST);
  while (true) {
    try {
      localStorage.setItem(KEY, JSON.stringify(kept));
      return;
    } catch {
      // Full: the oldest goes. A forbidden storage only costs the history.
      if (!kept.pop()) return;
    }
  }
}

function button(label, className, action) {
  const node = document.createElement("button");
  node.type = "button";
  node.className = className;
  node.textContent = label;
  node.addEventListener("click", action);
  return node;
}

function row(entry) {
  const item = document.createElement("li");
  const time = new Date(entry.time * 1000);
  const opener = button(String(entry.prompt).slice(0, 160), "history-open", () =>
    trigger("restore", { entry: JSON.stringify(entry) })
  );
  const meta = document.createElement("span");
  const models = (entry.sides || []).map((side) => side.title).join(" and ");
  meta.textContent = `${time.toLocaleString()} · ${models}`;
  item.append(opener, meta);
  return item;
}

function draw() {
  const entries = read();
  list.replaceChildren(...entries.map(row));
  element.querySelector(".history-empty").hidden = entries.length > 0;
  element.querySelector(".history-clear").hidden = entries.length === 0;
}

watch("value", () => {
  const entry = props.value;
  if (!entry || !entry.time) return;
  const entries = read();
  if (!entries.length || entries[0].time !== entry.time) write([entry, ...entries]);
  draw();
});
element.querySelector(".history-clear").addEventListener("click", () => {
  write([]);
  draw();
});
draw();
