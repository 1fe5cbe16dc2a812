// The buttons of a run: each asks the server, is off while it works, and says what happens next.

function makeControl(root, options) {
  // options: { control: async (question) => reply, measure: async (run) => reply, say, onDone }
  const dialog = root.querySelector(".confirm");

  async function press(button, run) {
    const { action } = button.dataset;
    if (action === "delete" && !(await confirmDelete(run))) return button.focus();
    const buttons = [...button.closest('[data-part="actions"]').querySelectorAll("button")];
    const wereOff = buttons.map((one) => one.disabled);
    buttons.forEach((one) => (one.disabled = true));
    button.setAttribute("aria-busy", "true");
    options.say(`${button.textContent}: asking the run ...`);
    try {
      const reply = await options.control({ run, action });
      options.say(reply.error ?? reply.news, reply.error ? "error" : "info");
      options.onDone(action, !reply.error);
    } catch {
      options.say("No answer from the playground; nothing is known to have changed.", "error");
    } finally {
      buttons.forEach((one, place) => (one.disabled = wereOff[place]));
      button.removeAttribute("aria-busy");
      if (document.activeElement === document.body) button.focus(); // lost while it was off
    }
  }

  async function confirmDelete(run) {
    const reply = await options.measure(run);
    if (reply.error) {
      options.say(reply.error, "error");
      return false;
    }
    dialog.querySelector('[data-part="confirm-name"]').textContent = reply.name;
    dialog.querySelector('[data-part="confirm-text"]').textContent = reply.text;
    dialog.returnValue = "";
    dialog.showModal();
    return new Promise((resolve) => {
      dialog.addEventListener("close", () => resolve(dialog.returnValue === "delete"), {
        once: true,
      });
    });
  }

  return { press };
}
