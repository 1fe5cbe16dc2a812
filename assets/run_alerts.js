// What a run calls attention to: the banner of open alarms, the name of the browser's tab, and, for
// who asked for it, notifications of this browser.

function makeAlerts(root, say) {
  const WANTED = "stentor-notify";
  const DISMISSED = "stentor-dismissed-alarms";
  const MAX_DISMISSED = 200;
  const pageTitle = document.title;
  const box = root.querySelector('[data-part="notify"]');
  const bannerBox = root.querySelector('[data-part="alarms"]');
  const canNotify = window.isSecureContext && "Notification" in window;
  const known = { run: "", words: "", isActive: false, raised: new Set() };

  function read(name) {
    try {
      return JSON.parse(localStorage.getItem(name)) ?? [];
    } catch {
      return []; // no storage in this browser, or something else's value
    }
  }

  function write(name, value) {
    try {
      localStorage.setItem(name, JSON.stringify(value));
    } catch {
      // A browser that keeps nothing asks again next time.
    }
  }

  function isOn() {
    return canNotify && box.checked && Notification.permission === "granted";
  }

  function prepare() {
    const hint = root.querySelector('[data-part="notify-hint"]');
    if (!canNotify) {
      box.disabled = true;
      hint.textContent = "Notifications need https, or the playground on this machine.";
      return;
    }
    box.checked = read(WANTED) === true && Notification.permission === "granted";
    hint.textContent = "Of alarms, and of the end of a run.";
  }

  async function choose() {
    if (box.checked && Notification.permission !== "granted") {
      const answer = await Notification.requestPermission();
      if (answer !== "granted") {
        box.checked = false;
        say("This browser does not allow notifications here. Its site settings decide.", "error");
      }
    }
    write(WANTED, box.checked);
    if (box.checked) say("This browser tells you of alarms and of the end, while this page is open.");
  }

  function tell(title, text) {
    if (!isOn()) return;
    try {
      new Notification(title, { body: text, tag: `stentor-${title}` });
    } catch {
      box.checked = false; // Android's browsers only allow them from a service worker
      say("This browser shows no notifications from a page.", "error");
    }
  }

  function take(reply) {
    const isOther = known.run !== reply.run;
    const raised = (reply.alarms ?? []).filter((alarm) => alarm.state === "raised");
    const keys = raised.map((alarm) => `${alarm.alarm} ${alarm.x} ${alarm.message}`);
    if (!isOther) {
      raised.forEach((alarm, place) => {
        if (!known.raised.has(keys[place])) tell(`Alarm: ${reply.run}`, alarm.message);
      });
      const hasEnded = known.isActive && !reply.is_active;
      if (hasEnded) tell(reply.run, `The run is now ${reply.stateWords}.`);
    }
    const { run, words, is_active: isActive } = reply;
    Object.assign(known, { run, words, isActive, raised: new Set(keys) });
    nameTab(words);
  }

  function nameTab(words) {
    const numOpen = bannerBox.querySelectorAll("li:not([hidden])").length;
    const alarm = numOpen ? `${numOpen} ${numOpen === 1 ? "alarm" : "alarms"}, ` : "";
    document.title = words ? `${alarm}${words} | ${pageTitle}` : pageTitle;
  }

  function hideDismissed() {
    // One press hides one alarm; the next, even of the same kind, has another key.
    const dismissed = new Set(read(DISMISSED));
    for (const item of bannerBox.querySelectorAll("li[data-alarm]")) {
      item.hidden = dismissed.has(item.dataset.alarm);
    }
  }

  function dismiss(button) {
    const key = button.closest("li").dataset.alarm;
    write(DISMISSED, [...read(DISMISSED), key].slice(-MAX_DISMISSED));
    hideDismissed();
    nameTab(known.words);
    (bannerBox.querySelector("li:not([hidden]) button") ?? root.querySelector("h3"))?.focus();
  }

  box.addEventListener("change", () => choose().catch((error) => say(error.message, "error")));
  prepare();

  return { dismiss, hideDismissed, isOn, nameTab, take };
}
