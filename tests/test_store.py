"""The store: who is loaded and who makes room; from a user's text to the tokens of a prompt."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from threading import Condition, Thread

import pytest
from tokenizers import Tokenizer, processors

import stentor.store
from stentor.engine.engine import GenerationRequest
from stentor.engine.sampling import SamplingSettings
from stentor.engine.stream import StopReason, Stream
from stentor.errors import ModelError, OptionError, PromptError
from stentor.hub import folder_of
from stentor.models import MODELS
from stentor.provenance import num_cores
from stentor.runs import create_run
from stentor.store import (
    MAX_CHARACTERS,
    MAX_LOADED,
    EngineOptions,
    LoadedModel,
    ModelStore,
    count_tokens,
    open_store,
    prepare_prompt,
)

CONTEXT = 512


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelStore]:
    """Return an empty store; the Hub's cache is empty too, whatever this machine has."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with ModelStore(num_threads=1) as store:
        yield store


@pytest.fixture
def loaded(store: ModelStore, tiny_model_folder: Path) -> LoadedModel:
    return store.load(str(tiny_model_folder))


def copies_of(folder: Path, target: Path, number: int) -> list[str]:
    """Return the paths of that many copies of a model."""
    paths = [target / f"copy-{place}" for place in range(number)]
    for path in paths:
        shutil.copytree(folder, path)
    return [str(path) for path in paths]


def begin(loaded: LoadedModel, max_new_tokens: int = 3) -> Stream:
    settings = SamplingSettings(max_new_tokens=max_new_tokens)
    prompt_ids = prepare_prompt(loaded, "The river").token_ids
    return loaded.engine.submit(GenerationRequest(prompt_ids, settings, "test"))


def held(loaded: LoadedModel) -> Condition:
    """Return the lock of an engine's room: while it is held, what is submitted stays waiting."""
    return loaded.engine._room._changed


def answers(loaded: LoadedModel) -> bool:
    stream = begin(loaded)
    assert stream.wait(60.0)
    return stream.snapshot().stop_reason in (StopReason.TOKEN_LIMIT, StopReason.END_OF_TEXT)


def test_a_model_is_loaded_once(store: ModelStore, tiny_model_folder: Path) -> None:
    first = store.load(str(tiny_model_folder))
    assert store.load(f"  {tiny_model_folder}/ ").engine is first.engine
    assert answers(first)


def test_all_models_share_one_budget_of_threads(tiny_model_folder: Path, tmp_path: Path) -> None:
    """Two busy models with all cores each once made both of them slower than one after another."""
    references = copies_of(tiny_model_folder, tmp_path, 2)
    with ModelStore(num_threads=3) as store:
        first, second = (store.load(reference).engine for reference in references)
        assert first.num_threads == second.num_threads == 3
        assert first._threads is second._threads
    with ModelStore() as store:
        assert store.load(references[0]).engine.num_threads == num_cores()


@pytest.mark.parametrize("precision", ["int8", "fp32"])
def test_models_compute_in_the_precision_asked_for(tiny_model_folder: Path, precision: str) -> None:
    with ModelStore(num_threads=1, precision=precision) as store:
        loaded = store.load(str(tiny_model_folder))
        assert (loaded.engine.precision, loaded.engine.device) == (precision, "cpu")
        assert answers(loaded)


def test_a_precision_that_does_not_exist_is_refused_before_any_load() -> None:
    with pytest.raises(OptionError, match="Did you mean 'int8'"):
        ModelStore(precision="int4")


def test_each_load_is_told_once_with_its_memory(
    tiny_model_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with open_store(EngineOptions("int8", 1)) as store:
        for _ in range(3):
            engine = store.load(str(tiny_model_folder)).engine
    printed = capsys.readouterr()
    assert printed.err == f"{tiny_model_folder.name}: {engine.describe()}\n"
    assert "int8" in printed.err and printed.out == ""


def test_many_threads_loading_one_model_load_it_once(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    found: list[LoadedModel] = []
    threads = [
        Thread(target=lambda: found.append(store.load(str(tiny_model_folder)))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8 and len({id(loaded.engine) for loaded in found}) == 1


def test_a_folder_written_anew_is_loaded_anew(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Training into the same folder twice used to show the first model's texts for ever."""
    (reference,) = copies_of(tiny_model_folder, tmp_path, 1)
    first = store.load(reference)
    config_file = Path(reference) / "config.json"
    config = json.loads(config_file.read_text()) | {"max_position_embeddings": 128}
    config_file.write_text(json.dumps(config))
    second = store.load(reference)
    assert (first.engine.context_length, second.engine.context_length) == (512, 128)


def test_the_one_unused_for_longest_makes_room(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    references = copies_of(tiny_model_folder, tmp_path, MAX_LOADED + 1)
    loaded = [store.load(reference) for reference in references[:MAX_LOADED]]
    assert store.load(references[0]).engine is loaded[0].engine, "used again: no longer the oldest"
    store.load(references[MAX_LOADED])
    with pytest.raises(ModelError, match="closed to make room"):
        begin(loaded[1])
    for place in (0, 2, 3):
        assert answers(loaded[place])
    assert answers(store.load(references[1])), "it is loaded again when asked for"


def test_a_busy_model_never_makes_room(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    references = copies_of(tiny_model_folder, tmp_path, MAX_LOADED + 1)
    loaded = [store.load(reference) for reference in references[:MAX_LOADED]]
    with held(loaded[0]), held(loaded[1]):
        streams = [begin(loaded[0]), begin(loaded[1])]
        store.load(references[MAX_LOADED])
        with pytest.raises(ModelError, match="closed to make room"):
            begin(loaded[2])
    for stream in streams:
        assert stream.wait(60.0)
        assert stream.snapshot().stop_reason is StopReason.TOKEN_LIMIT


def test_when_all_are_busy_another_load_is_refused(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    references = copies_of(tiny_model_folder, tmp_path, MAX_LOADED + 1)
    a, b, c, d = (store.load(reference) for reference in references[:MAX_LOADED])
    with held(a), held(b), held(c), held(d):
        streams = [begin(loaded) for loaded in (a, b, c, d)]
        with pytest.raises(ModelError, match="all of them are busy"):
            store.load(references[MAX_LOADED])
    assert all(stream.wait(60.0) for stream in streams)
    assert answers(store.load(references[MAX_LOADED]))


def test_a_failed_load_leaves_everything_else_serving(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    *good, broken = copies_of(tiny_model_folder, tmp_path, MAX_LOADED + 1)
    loaded = [store.load(reference) for reference in good]
    path = Path(broken) / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-500])
    for _ in range(2):
        with pytest.raises(ModelError, match="damaged or cut short"):
            store.load(broken)
    assert all(answers(item) for item in loaded)
    path.write_bytes(whole)
    assert answers(store.load(broken)), "mended, it loads without a restart"


def test_a_model_that_is_not_here_says_so(store: ModelStore) -> None:
    with pytest.raises(ModelError, match="Stentor-Big is not on this machine yet"):
        store.load("stentor-big")
    assert folder_of(MODELS["stentor-big"]) is None


def test_folders_are_refused_where_strangers_type(
    store: ModelStore, tiny_model_folder: Path
) -> None:
    with pytest.raises(ModelError, match="cannot be opened from here"):
        store.load(str(tiny_model_folder), allow_folders=False)


def test_a_closed_store_has_ended_its_engines(tiny_model_folder: Path) -> None:
    with ModelStore(num_threads=1) as store:
        loaded = store.load(str(tiny_model_folder))
    with pytest.raises(ModelError):
        begin(loaded)


def test_the_menu_knows_what_is_ready(store: ModelStore, tiny_model_folder: Path) -> None:
    run = create_run({"name": "practice"}, "practice")
    shutil.copytree(tiny_model_folder, run.checkpoints_folder / "general-000010")
    (run.checkpoints_folder / "general-000020").mkdir()
    entries = {entry.spec.name: entry for entry in store.available()}
    assert set(MODELS) <= set(entries)
    assert not entries["stentor-30m"].is_ready and entries["stentor-30m"].num_bytes == 0
    ready = entries[f"run:{run.id}/general-000010"]
    assert ready.is_ready
    assert ready.num_bytes == (tiny_model_folder / "model.safetensors").stat().st_size
    assert not entries[f"run:{run.id}/general-000020"].is_ready
    assert answers(store.load(f"run:{run.id}/general-000010", allow_folders=False))


@pytest.mark.parametrize("moment", ["is_complete", "weight_files", "list_checkpoint_models"])
def test_the_menu_passes_over_a_checkpoint_that_is_pruned_meanwhile(
    store: ModelStore, tiny_model_folder: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """The trainer prunes while the page asks; a FileNotFoundError once took the whole menu."""
    run = create_run({"name": "practice"}, "practice")
    kept, pruned = (run.checkpoints_folder / name for name in ("general-000010", "general-000005"))
    for folder in (kept, pruned):
        shutil.copytree(tiny_model_folder, folder)
    before = getattr(stentor.store, moment)

    def then_prune(*folders: Path) -> object:
        result = before(*folders)
        shutil.rmtree(pruned, ignore_errors=True)
        return result

    monkeypatch.setattr(stentor.store, moment, then_prune)
    names = [entry.spec.name for entry in store.available()]
    assert [name for name in names if name.startswith("run:")] == [f"run:{run.id}/{kept.name}"]


def test_a_prompt_becomes_its_tokens(loaded: LoadedModel) -> None:
    prepared = prepare_prompt(loaded, "The river runs")
    assert loaded.checkpoint.tokenizer.decode(list(prepared.token_ids)) == "The river runs"
    assert prepared.num_dropped == 0
    assert count_tokens(loaded, "The river runs") == len(prepared.token_ids)
    assert count_tokens(loaded, "") == 0


@pytest.mark.parametrize("text", ["\0", "a\0b", " ", "\n\n", "\u200b", "日本語", "\x1b[31m", "�"])
def test_odd_characters_are_tokens_like_any_other(loaded: LoadedModel, text: str) -> None:
    prepared = prepare_prompt(loaded, text)
    assert loaded.checkpoint.tokenizer.decode(list(prepared.token_ids)) == text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "prompt is empty"),
        ("ab\ud800c", r"Character 3 of the prompt .* lone surrogate"),
        ("x" * (MAX_CHARACTERS + 1), "100,001 characters; the most is 100,000"),
    ],
)
def test_prompts_that_cannot_be_generated_from(loaded: LoadedModel, text: str, reason: str) -> None:
    for overflow in ("refuse", "truncate"):
        with pytest.raises(PromptError, match=reason):
            prepare_prompt(loaded, text, overflow)


def test_the_last_prompt_that_fits_and_the_first_that_does_not(loaded: LoadedModel) -> None:
    assert len(prepare_prompt(loaded, "z" * (CONTEXT - 1)).token_ids) == CONTEXT - 1
    with pytest.raises(PromptError, match=r"has 512 tokens; .*too many: 1\)"):
        prepare_prompt(loaded, "z" * CONTEXT)


@pytest.mark.parametrize(
    ("num_new_tokens", "kept"), [(1, 511), (0, 511), (80, 432), (256, 256), (512, 256)]
)
def test_cutting_at_the_left_keeps_the_end_and_makes_room(
    loaded: LoadedModel, num_new_tokens: int, kept: int
) -> None:
    text = "z" * 600 + "The river runs"
    whole = loaded.checkpoint.tokenizer.encode(text).ids
    prepared = prepare_prompt(loaded, text, "truncate", num_new_tokens=num_new_tokens)
    assert prepared.token_ids == tuple(whole[-kept:])
    assert prepared.num_dropped == len(whole) - kept


def test_a_prompt_that_fits_is_never_cut(loaded: LoadedModel) -> None:
    prepared = prepare_prompt(loaded, "z" * (CONTEXT - 1), "truncate", num_new_tokens=80)
    assert (len(prepared.token_ids), prepared.num_dropped) == (CONTEXT - 1, 0)


def test_the_longest_allowed_text_is_cut_to_size(loaded: LoadedModel) -> None:
    prepared = prepare_prompt(loaded, "z" * MAX_CHARACTERS, "truncate")
    assert prepared.num_dropped == MAX_CHARACTERS - (CONTEXT - 1)


def test_another_way_to_handle_long_prompts_does_not_exist(loaded: LoadedModel) -> None:
    with pytest.raises(OptionError, match="Did you mean 'truncate'"):
        prepare_prompt(loaded, "The river", "trunkate")


def test_a_start_token_of_the_tokenizer_survives_the_cut(
    store: ModelStore, tiny_model_folder: Path, tmp_path: Path
) -> None:
    """Llama tokenizers put <s> in front; cut off with the rest, the model loses its footing."""
    (reference,) = copies_of(tiny_model_folder, tmp_path, 1)
    path = str(Path(reference) / "tokenizer.json")
    tokenizer = Tokenizer.from_file(path)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|end|> $A", special_tokens=[("<|end|>", 0)]
    )
    tokenizer.save(path)
    loaded = store.load(reference)
    assert prepare_prompt(loaded, "zz").token_ids[0] == 0
    prepared = prepare_prompt(loaded, "z" * 600, "truncate")
    assert len(prepared.token_ids) == CONTEXT - 1
    assert prepared.token_ids[0] == 0 and prepared.token_ids[1] == prepared.token_ids[-1] != 0
    assert prepared.num_dropped == 600 - (CONTEXT - 2)


def test_a_special_token_that_the_user_typed_is_cut_like_any_other(loaded: LoadedModel) -> None:
    prepared = prepare_prompt(loaded, "<|end|>" + "z" * 600, "truncate")
    assert 0 not in prepared.token_ids and len(prepared.token_ids) == CONTEXT - 1


def test_a_closed_store_loads_nothing_more(tiny_model_folder: Path) -> None:
    """A load in the background that came after the close left its engine open for ever."""
    store = ModelStore()
    store.close()
    with pytest.raises(ModelError, match="playground is ending"):
        store.load(str(tiny_model_folder))
