"""The Prompts tab's HTML: nothing that a prompt or a model says can become markup."""

from dataclasses import replace

import pytest

from stentor.evaluation_store import Evaluation, EvaluationSettings, ModelUsed, Result
from stentor.prompts import Category, Prompt, categories, find_category, find_prompt
from stentor.ui import prompts_view as view

ATTACK = "<img src=x onerror=alert(1)> \" ' &lt;"
PROMPT = find_prompt("science-01")
EVALUATION = Evaluation(
    id="20260102-030405-science-abcd",
    state="finished",
    settings=EvaluationSettings(category="science", seed=7),
    models=(
        ModelUsed("demo-base", "Demo base", "sha256:aa", 1_000_000, "fp32"),
        ModelUsed("demo-big", "Demo big", "sha256:bb", 2_000_000, "fp32"),
    ),
    suite_hash="sha256:1",
    sampling={"science": {"temperature": 0.5, "max_new_tokens": 80, "seed": 7}},
    total=20,
    prompts_at_a_time=1,
    versions={"stentor": "0.1.0"},
    machine={"cores": 2},
    pid=1,
    process_start="x",
    started=1_000_000.0,
    finished=1_000_075.0,
)
RESULT = Result(
    prompt_id="science-01",
    category="science",
    prompt=PROMPT.text,
    side=0,
    model="demo-base",
    scorer="fluency",
    text=" make sugar",
    num_tokens=9,
    stop_reason="end of text",
    tokens_per_second=71.0,
    mean_log_probability=-2.5,
    score=0.75,
    score_note="Judged.",
)


def test_every_scorer_and_origin_has_words() -> None:
    for category in categories().values():
        assert view.SCORER_WORDS[category.scorer]
        assert all(view.ORIGIN_WORDS[prompt.origin] for prompt in category.prompts)
        assert f"{category.temperature:g}" in view.about_category(category)


def test_both_outputs_stand_beside_each_other_with_settings_and_scores() -> None:
    other = replace(RESULT, side=1, text=" eat light", score=None)
    html = view.prompt_detail(PROMPT, EVALUATION, [other, RESULT])
    assert html.index(" make sugar") < html.index(" eat light")
    assert "Score 0.75" in html and "No score" in html
    assert "temperature 0.5, max new tokens 80, seed 7" in html
    assert "9 of 80 tokens · 71.0 tokens/s · -2.50 nats/token · end of text" in html
    assert "sha256:aa" in html and "sha256:bb" in html


def test_a_seed_is_shown_in_full() -> None:
    """Six digits, as for a temperature, made 4294967295 read 4.29497e+09: nobody can repeat it."""
    sampling = {"science": {"temperature": 0.25, "max_new_tokens": 80, "seed": 2**32 - 1}}
    html = view.prompt_detail(PROMPT, replace(EVALUATION, sampling=sampling), [])
    assert "temperature 0.25, max new tokens 80, seed 4294967295" in html


def test_model_output_is_escaped_everywhere() -> None:
    """Model output is untrusted text: a model can be trained to write a script."""
    evil = replace(
        RESULT, text=ATTACK, prompt=ATTACK, score_note=ATTACK, stop_reason=ATTACK, error=None
    )
    failed = replace(evil, side=1, error=ATTACK)
    models = tuple(replace(model, title=ATTACK, revision=ATTACK) for model in EVALUATION.models)
    evaluation = replace(
        EVALUATION, models=(models[0], models[1]), error=ATTACK, versions={ATTACK: ATTACK}
    )
    prompt = replace(PROMPT, text=ATTACK, id=ATTACK, expected=(ATTACK,))
    pieces = [
        view.prompt_detail(prompt, evaluation, [replace(evil, prompt_id=ATTACK), failed]),
        view.prompt_detail(replace(PROMPT, text=ATTACK), None, []),
        view.prompt_detail(PROMPT, evaluation, [evil, failed]),
        view.score_table(evaluation, [evil]),
        view.progress(evaluation, 3),
        view.about_category(evil_category()),
    ]
    for html in pieces:
        assert "&lt;img" in html
        assert "<img" not in html
        assert "onerror=alert(1)&gt;" in html


def evil_category() -> Category:
    return replace(find_category("science"), purpose=ATTACK, settings_reason=ATTACK)


@pytest.mark.parametrize(
    ("state", "words"),
    [("running", "Not reached yet."), ("stopped", "The run ended before this prompt.")],
)
def test_a_missing_output_says_why(state: str, words: str) -> None:
    evaluation = replace(EVALUATION, state=state)
    assert view.prompt_detail(PROMPT, evaluation, []).count(words) == 2


def test_a_refused_prompt_shows_its_reason_instead_of_a_score() -> None:
    html = view.prompt_detail(PROMPT, EVALUATION, [replace(RESULT, error="Too long.", text="")])
    assert "Too long." in html and "Score" not in html


def test_empty_states_teach() -> None:
    assert "Choose one in the list" in view.prompt_detail(None, None, [])
    assert "Press Run category" in view.prompt_detail(PROMPT, None, [])
    other = find_prompt("python-01")
    assert "No run of this category yet" in view.prompt_detail(other, EVALUATION, [])
    assert "No run chosen" in view.score_table(None, [])


def test_progress_tells_loading_from_running_and_how_it_ended() -> None:
    loading = replace(EVALUATION.models[1], revision=None)
    running = replace(EVALUATION, state="running", finished=None)
    assert 'value="3" max="20"' in view.progress(running, 3)
    unloaded = replace(running, models=(EVALUATION.models[0], loading))
    assert "loading the models" in view.progress(unloaded, 0)
    assert "finished after 1 min 15 s, 20 of 20 texts" in view.progress(EVALUATION, 20)
    died = replace(EVALUATION, state="stopped", finished=None, error="It died.")
    assert "Science: stopped, 3 of 20 texts. It died." in view.progress(died, 3)
    assert view.progress(None, 0) == ""


def test_a_category_that_no_longer_exists_keeps_its_results_readable() -> None:
    gone = replace(EVALUATION, sampling={"gone": {"max_new_tokens": 8}})
    html = view.score_table(gone, [replace(RESULT, category="gone")])
    assert "gone" in html and "0.75" in html


def test_labels_are_one_line() -> None:
    label = view.prompt_label(Prompt("x-01", "x", "a\nb  " + "c" * 300, "card"))
    assert label.startswith("a b c") and label.endswith("… (card)")
    assert len(label) == view.LABEL_CHARACTERS + len(" (card)")
    assert "Science · Demo base and Demo big · seed 7 · finished" in view.run_label(EVALUATION)
