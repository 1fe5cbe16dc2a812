// The time machine of a run: one prompt, and what the model made of it at every position of the run,
// from its base over its grown form to each checkpoint. Words that changed are marked. Texts are
// untrusted and only ever become text nodes.

function makeSamples(root, options) {
  // options: { ask: async (question) => reply, onMove: (key) => void }
  const MAX_DIFF_WORDS = 600;
  const PLAY_MS = 1600;
  const at = (name) => root.querySelector(`[data-part="${name}"]`);
  const promptMenu = at("sample-prompt");
  const againstMenu = at("sample-against");
  const slider = at("sample-slider");
  const playButton = at("sample-play");
  const state = {
    ...{ run: "", have: 0, rewound: 0, byPrompt: new Map(), key: null },
    ...{ signature: "", playing: null },
  };

  function forget(run) {
    stop();
    Object.assign(state, { run, have: 0, rewound: 0, byPrompt: new Map(), key: null, signature: "" });
    promptMenu.replaceChildren();
    show();
  }

  async function take(run, marks) {
    if (run !== state.run) forget(run);
    const signature = JSON.stringify(marks);
    if (signature === state.signature) return;
    const previous = state.signature;
    state.signature = signature;
    let reply;
    try {
      reply = await options.ask({ run, have: state.have, rewound: state.rewound });
    } catch (error) {
      state.signature = previous; // asked again with the next answer
      throw error;
    }
    if (reply.error) throw new Error(reply.error);
    if (run !== state.run) return;
    if (reply.is_whole) state.byPrompt = new Map();
    Object.assign(state, { have: reply.have, rewound: reply.rewound });
    for (const sample of reply.samples) keep(sample);
    listPrompts();
    show();
  }

  function keep(sample) {
    // A resumed run repeats a position with the same key; the later text takes its place.
    if (!state.byPrompt.has(sample.prompt)) state.byPrompt.set(sample.prompt, new Map());
    state.byPrompt.get(sample.prompt).set(sample.key, sample);
  }

  function listPrompts() {
    const prompts = [...state.byPrompt.keys()];
    const known = [...promptMenu.options].map((option) => option.value);
    if (JSON.stringify(prompts) === JSON.stringify(known)) return;
    const chosen = promptMenu.value;
    promptMenu.replaceChildren(...prompts.map((prompt) => new Option(prompt, prompt)));
    if (prompts.includes(chosen)) promptMenu.value = chosen;
  }

  function positions() {
    const samples = [...(state.byPrompt.get(promptMenu.value)?.values() ?? [])];
    return samples.sort((one, other) => one.order - other.order || one.step - other.step);
  }

  function place(list) {
    // No position chosen, or the newest one: follow the run.
    const found = list.findIndex((sample) => sample.key === state.key);
    return state.key === null || found < 0 ? list.length - 1 : found;
  }

  function show() {
    const list = positions();
    root.toggleAttribute("data-is-empty", list.length === 0);
    if (!list.length) return;
    const index = place(list);
    const now = list[index];
    const before = againstMenu.value === "first" ? list[0] : list[index - 1];
    slider.max = String(list.length - 1);
    slider.value = String(index);
    slider.disabled = list.length < 2;
    playButton.disabled = list.length < 2;
    const label = `${now.label} (${index + 1} of ${list.length})`;
    slider.setAttribute("aria-valuetext", label);
    at("sample-label").textContent = label;
    showStops(list, index);
    showTexts(now, before === now ? undefined : before);
    at("sample-earlier").disabled = index === 0;
    at("sample-later").disabled = index === list.length - 1;
    options.onMove(now.key);
  }

  function showStops(list, index) {
    // One stop per stage, as wide as the positions it has, so that the strip names the slider.
    const groups = [];
    for (const [place, sample] of list.entries()) {
      const last = groups.at(-1);
      if (last?.title === sample.group) last.count += 1;
      else groups.push({ title: sample.group, count: 1, first: place });
    }
    const stops = groups.map((group) => {
      const stop = document.createElement("button");
      stop.type = "button";
      stop.textContent = group.title;
      stop.title = group.title;
      stop.dataset.place = String(group.first + group.count - 1);
      stop.style.flexGrow = String(group.count);
      const isHere = index >= group.first && index < group.first + group.count;
      stop.setAttribute("aria-pressed", String(isHere));
      return stop;
    });
    const box = at("sample-stops");
    const focused = [...box.children].indexOf(document.activeElement);
    box.replaceChildren(...stops);
    if (focused >= 0) stops[Math.min(focused, stops.length - 1)].focus();
  }

  function showTexts(now, before) {
    const [oldPieces, newPieces] = before ? diff(before.text, now.text) : [[], [[now.text, false]]];
    fill(at("sample-now"), now.prompt, newPieces, "ins");
    const box = root.querySelector(".walk-before");
    box.hidden = !before;
    at("sample-now-title").textContent = now.title;
    at("sample-settings").textContent = now.settings;
    at("sample-change").textContent = before ? summary(oldPieces, newPieces, before) : "";
    if (!before) return;
    at("sample-before-title").textContent = before.title;
    fill(at("sample-before"), before.prompt, oldPieces, "del");
  }

  function fill(box, prompt, pieces, tag) {
    const start = document.createElement("span");
    start.className = "soft";
    start.textContent = prompt;
    const nodes = pieces.flatMap(([text, isChanged]) => {
      if (!isChanged) return [text];
      const mark = document.createElement(tag);
      mark.textContent = text.trimStart();
      return [text.slice(0, text.length - mark.textContent.length), mark]; // the space is unmarked
    });
    box.replaceChildren(start, ...nodes);
  }

  function summary(oldPieces, newPieces, before) {
    const gone = countWords(oldPieces);
    const fresh = countWords(newPieces);
    if (!gone && !fresh) return `The same text as ${before.title}.`;
    return `Against ${before.title}: ${fresh} ${fresh === 1 ? "word" : "words"} new, ${gone} gone.`;
  }

  function countWords(pieces) {
    const changed = pieces.filter(([, isChanged]) => isChanged).map(([text]) => text);
    return changed.join(" ").split(/\s+/).filter(Boolean).length;
  }

  function diff(before, now) {
    // Longest common subsequence of words; each word keeps the space before it.
    const old = before.match(/\s*\S+/g) ?? [];
    const fresh = now.match(/\s*\S+/g) ?? [];
    if (Math.max(old.length, fresh.length) > MAX_DIFF_WORDS) return [[[before, true]], [[now, true]]];
    const same = (i, j) => old[i].trim() === fresh[j].trim();
    const length = Array.from({ length: old.length + 1 }, () => new Uint16Array(fresh.length + 1));
    for (let i = old.length - 1; i >= 0; i--) {
      for (let j = fresh.length - 1; j >= 0; j--) {
        length[i][j] = same(i, j)
          ? length[i + 1][j + 1] + 1
          : Math.max(length[i + 1][j], length[i][j + 1]);
      }
    }
    const pairs = [];
    for (let i = 0, j = 0; i < old.length && j < fresh.length; ) {
      if (same(i, j)) pairs.push([i++, j++]);
      else if (length[i + 1][j] >= length[i][j + 1]) i++;
      else j++;
    }
    const kept = withoutIslands(pairs, old.length, fresh.length);
    return [
      pieces(old, new Set(kept.map(([i]) => i))),
      pieces(fresh, new Set(kept.map(([, j]) => j))),
    ];
  }

  function withoutIslands(pairs, numOld, numFresh) {
    // A lone "the" that both texts happen to have is no common text: reading it as one confuses.
    const joins = (one, other) => one[0] + 1 === other[0] && one[1] + 1 === other[1];
    const start = [-1, -1];
    const end = [numOld, numFresh];
    return pairs.filter((pair, k) => {
      const earlier = pairs[k - 1] ?? start;
      const later = pairs[k + 1] ?? end;
      return joins(earlier, pair) || joins(pair, later);
    });
  }

  function pieces(words, kept) {
    const found = [];
    words.forEach((word, place) => {
      const isChanged = !kept.has(place);
      if (found.length && found.at(-1)[1] === isChanged) found.at(-1)[0] += word;
      else found.push([word, isChanged]);
    });
    return found;
  }

  function moveTo(index) {
    const list = positions();
    const place = Math.max(0, Math.min(list.length - 1, index));
    state.key = place === list.length - 1 ? null : list[place].key;
    show();
  }

  function goTo(key) {
    const index = positions().findIndex((sample) => sample.key === key);
    if (index < 0) return false;
    stop();
    moveTo(index);
    return true;
  }

  function stop() {
    clearInterval(state.playing);
    state.playing = null;
    playButton.textContent = "Play";
  }

  function play() {
    if (state.playing) return stop();
    if (Number(slider.value) === Number(slider.max)) moveTo(0);
    playButton.textContent = "Pause";
    state.playing = setInterval(() => {
      if (!root.isConnected || Number(slider.value) >= Number(slider.max)) return stop();
      moveTo(Number(slider.value) + 1);
    }, PLAY_MS);
  }

  slider.addEventListener("input", () => {
    stop();
    moveTo(Number(slider.value));
  });
  promptMenu.addEventListener("change", show);
  againstMenu.addEventListener("change", show);
  playButton.addEventListener("click", play);
  at("sample-earlier").addEventListener("click", () => moveTo(Number(slider.value) - 1));
  at("sample-later").addEventListener("click", () => moveTo(Number(slider.value) + 1));
  at("sample-stops").addEventListener("click", (event) => {
    const stopButton = event.target.closest("button");
    if (stopButton) moveTo(Number(stopButton.dataset.place));
  });

  return { take, goTo };
}
