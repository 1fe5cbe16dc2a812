// The menu of runs: what is going, what is in line in its order, what has ended; and which is chosen.

function fillRunMenu(menu, runs, newest, newestValue) {
  const signature = JSON.stringify(runs);
  if (menu.dataset.signature === signature) return; // an open menu stays as it is
  menu.dataset.signature = signature;
  const choose = new Option(`Choose one of ${runs.length}`, "");
  choose.hidden = true;
  const queued = runs.filter((run) => run.state === "queued");
  const groups = [
    ["Going", runs.filter((run) => run.is_active)],
    ["In line", queued.sort((one, other) => one.queue_place - other.queue_place)],
    ["Ended or not started", runs.filter((run) => !run.is_active && run.state !== "queued")],
  ];
  const lists = groups
    .filter(([, members]) => members.length)
    .map(([title, members]) => {
      const group = document.createElement("optgroup");
      group.label = `${title} (${members.length})`;
      group.append(...members.map((run) => new Option(run.label, run.id)));
      return group;
    });
  const following = newest ? [new Option(`Newest: ${newest.label}`, newestValue)] : [];
  menu.replaceChildren(choose, ...following, ...lists);
}

function makeTabMemory(key) {
  // What this browser tab keeps over a reload. Inside another site's page a browser may refuse it;
  // then it is kept until the reload.
  let kept = null;
  try {
    kept = sessionStorage.getItem(key);
  } catch {
    // refused
  }
  function set(value) {
    kept = value;
    try {
      if (value === null) sessionStorage.removeItem(key);
      else sessionStorage.setItem(key, value);
    } catch {
      // refused, or full
    }
  }
  return { get: () => kept, set };
}
