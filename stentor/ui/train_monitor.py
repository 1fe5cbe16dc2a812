"""The skeleton of a run's page: places that assets/train.js fills with what the server sends.

No value of a run is in here. Each `data-part` is the name of one place; see train_view.parts.
"""

TIME_MACHINE = """
<section class="samples-box" data-part="samples" data-is-empty aria-label="Samples over the run">
  <header>
    <h4>Samples over the run</h4>
    <label>Prompt <select data-part="sample-prompt"></select></label>
    <label>Changes against <select data-part="sample-against">
      <option value="before">the position before</option>
      <option value="first">the first position</option></select></label>
  </header>
  <p class="soft samples-empty">The run continues a few fixed prompts, always with the same seeds:
    before it begins, once it has grown, and at every checkpoint. The texts appear here, and a
    slider walks through them.</p>
  <div class="walk">
    <div class="walk-bar">
      <button type="button" class="plain-button" data-part="sample-earlier"
        aria-label="Earlier position">&#9664;</button>
      <input type="range" min="0" max="0" step="1" value="0" data-part="sample-slider"
        aria-label="Position in the run">
      <button type="button" class="plain-button" data-part="sample-later"
        aria-label="Later position">&#9654;</button>
      <button type="button" class="plain-button" data-part="sample-play">Play</button>
    </div>
    <div class="walk-stops" data-part="sample-stops" role="group" aria-label="Go to a stage"></div>
    <p class="walk-label" data-part="sample-label" aria-live="polite"></p>
    <div class="walk-texts">
      <figure class="walk-before"><figcaption data-part="sample-before-title"></figcaption>
        <p data-part="sample-before"></p></figure>
      <figure class="walk-now"><figcaption data-part="sample-now-title"></figcaption>
        <p data-part="sample-now"></p></figure>
    </div>
    <p class="soft walk-notes"><span data-part="sample-change"></span>
      <span data-part="sample-settings"></span></p>
  </div>
</section>
"""
CONFIRM = """
<dialog class="confirm" aria-labelledby="confirm-title" aria-describedby="confirm-text">
  <form method="dialog">
    <h4 id="confirm-title">Delete this run?</h4>
    <p><code data-part="confirm-name"></code></p>
    <p id="confirm-text" data-part="confirm-text"></p>
    <div class="confirm-buttons">
      <button type="submit" class="plain-button" value="keep" autofocus>Keep it</button>
      <button type="submit" class="plain-button danger" value="delete">Delete for good</button>
    </div>
  </form>
</dialog>
"""
HAND_OVER = """
<dialog class="confirm hand-over" aria-labelledby="hand-over-title">
  <form method="dialog">
    <h4 id="hand-over-title">Hand this run over</h4>
    <p class="soft">Writes a folder with the weights, the tokenizer, the recipe and a model card:
      data, licences, figures, limits. It loads into transformers.</p>
    <div class="fields" data-part="hand-over-fields"></div>
    <p class="status-line" role="status" data-part="hand-over-news"></p>
    <div class="confirm-buttons">
      <button type="submit" class="plain-button">Close</button>
      <button type="button" class="plain-button main" data-part="hand-over-start">Write it</button>
    </div>
  </form>
</dialog>
"""
MONITOR = f"""
<div class="monitor" data-view="loading">
  <div class="run-bar">
    <button type="button" class="plain-button" data-action="new">New run</button>
    <label class="run-menu">Runs <select></select></label>
    <label class="run-notify"><input type="checkbox" data-part="notify"> Tell me in this browser
      <span class="soft" data-part="notify-hint"></span></label>
  </div>
  <div class="run-view">
    <div data-part="heading"></div>
    <div data-part="alarms"></div>
    <div data-part="trouble"></div>
    <div class="run-actions">
      <div data-part="actions"></div>
      <p class="status-line" role="status" data-part="news"></p>
    </div>
    <div data-part="cards"></div>
    <div data-part="notices"></div>
    <div class="run-columns">
      <section class="chart-box" aria-label="Curves">
        <div data-part="chart-controls"></div>
        <div class="chart" role="img" aria-label="Loss, learning rate, gradient norm and speed over
          the run; the newest values are in the table beside it"></div>
        <p class="chart-empty">The curves begin with the first training step. Growing comes first
          and has no steps.</p>
        <div class="machine-chart" role="img" aria-label="Load of the machine over the run; the
          newest values are in the list beside it"></div>
      </section>
      <aside>
        <div data-part="numbers"></div>
        <div data-part="machine"></div>
        <div class="kept-box">
          <div data-part="checkpoints"></div>
          <label class="opponent">against <select data-part="opponents"></select></label>
        </div>
      </aside>
    </div>
    {TIME_MACHINE}
    <section class="log-box" aria-label="Log"><h4>Log</h4>
      <pre class="log" tabindex="0" aria-label="End of the log"></pre></section>
    <details class="run-command"><summary>Exact command of this run</summary>
      <div class="command-line"><code data-part="command"></code>
        <button type="button" class="plain-button" data-action="copy">Copy</button></div>
    </details>
    {CONFIRM}
    {HAND_OVER}
  </div>
</div>
"""
