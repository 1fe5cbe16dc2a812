"""training/growth_comparison: results.py, report.py, chart.py and page.py on hand-made results."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from growth_results import SOURCE_LOSS, conditions_of, make_result, make_results, plan_of

from stentor.errors import RunError
from training.growth_comparison.chart import loss_range, make_curves, make_figure
from training.growth_comparison.chart_layout import PANELS, side_by_side, stacked
from training.growth_comparison.options import CONTINUED, DEFAULT_STRATEGY, SCRATCH
from training.growth_comparison.page import make_page, write_page
from training.growth_comparison.report import (
    Report,
    last_line,
    make_report,
    sentences,
    summary_of,
    table_lines,
)
from training.growth_comparison.results import RESULTS_FILE, append_result, read_results


def report_of(num_seeds: int, model: str = "demo-base") -> Report:
    plan = plan_of(model, num_seeds=num_seeds)
    return make_report(conditions_of(plan), make_results(num_seeds))


def page_of(report: Report) -> str:
    return make_page(report, make_figure(report.results, report.arms, SOURCE_LOSS, 1e14))


class Links(HTMLParser):
    """Collects what a browser would load or follow, and the tags there are."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = ("src", "href", "srcset", "action", "data", "poster")
        self.links += [value or "" for name, value in attrs if name in names]


def test_results_are_kept_line_by_line(tmp_path: Path) -> None:
    results = make_results(2)
    for result in results:
        append_result(tmp_path, result)
    assert read_results(tmp_path) == results


def test_a_half_written_line_of_a_killed_process_is_passed_over(tmp_path: Path) -> None:
    first, second, *_ = make_results(1)
    append_result(tmp_path, first)
    with (tmp_path / RESULTS_FILE).open("a") as stream:
        stream.write('{"strategy": "zero_p')
    assert read_results(tmp_path) == [first]
    append_result(tmp_path, second)
    assert read_results(tmp_path) == [first, second]


def test_of_the_same_run_the_later_result_counts(tmp_path: Path) -> None:
    first = make_results(1)[0]
    later = replace(first, seconds=9.0)
    append_result(tmp_path, first)
    append_result(tmp_path, later)
    assert read_results(tmp_path) == [later]


def test_a_foreign_line_is_named(tmp_path: Path) -> None:
    (tmp_path / RESULTS_FILE).write_text('{"loss": 3}\n')
    with pytest.raises(RunError, match="line 1"):
        read_results(tmp_path)


def test_the_table_names_strategies_in_words_and_puts_the_best_first() -> None:
    lines = table_lines(report_of(3))
    assert lines[1].startswith("zero-padded + silent layers between")
    assert lines[-1].startswith("large model from scratch")
    assert len(lines) == 4


def test_one_seed_is_said_to_give_no_verdict() -> None:
    text = " ".join(sentences(report_of(1)))
    assert "no verdict" in text
    assert "better" not in text


def test_three_seeds_give_verdicts_with_their_standard_error() -> None:
    text = sentences(report_of(3))
    expected = "zero-padded + silent layers between against small model continued: better (-0.0990"
    assert text[0].startswith(expected)
    assert any("standard errors is a tie" in line for line in text)


def test_what_is_missing_and_what_failed_is_said() -> None:
    failed = make_result(SCRATCH, 0, [8.0], error="Loss nan at step 2: training has diverged.")
    plan = plan_of()
    report = make_report(conditions_of(plan), [*make_results(1)[:2], failed])
    text = " ".join(sentences(report))
    assert "diverged" in text
    assert "2 of 5 runs are still to be done" in text
    assert report.num_missing == 2


def test_the_summary_says_where_it_comes_from() -> None:
    summary = summary_of(report_of(3))
    assert json.loads(json.dumps(summary))["seeds"] == [0, 1, 2]
    assert summary["plan"]["revision"] == "sha256:0123"
    assert {"versions", "machine", "data_fingerprint", "verdicts", "tokens_per_run"} <= set(summary)


def test_the_last_line_is_json_with_losses_and_verdicts() -> None:
    line = json.loads(json.dumps(last_line(report_of(3), Path("there"))))
    assert line["final_losses"][CONTINUED] == pytest.approx(3.51)
    assert {v["verdict"] for v in line["verdicts"]} == {"better", "worse"}


def test_the_page_loads_nothing_from_anywhere() -> None:
    page = page_of(report_of(3))
    links = Links()
    links.feed(page)
    assert links.links == []
    assert not {"link", "iframe", "img", "object", "embed", "form"} & set(links.tags)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    assert policy[1].startswith("default-src 'none'")
    assert "http" not in policy[1]
    without_scripts = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert "http://" not in without_scripts
    assert "https://" not in without_scripts


def test_what_comes_from_files_is_escaped() -> None:
    name = "</title><script>alert(1)</script>"
    page = page_of(report_of(1, model=name))
    assert name not in page
    assert "&lt;script&gt;alert(1)" in page
    assert "a &lt;b&gt;processor" in page


def test_the_page_names_strategies_in_words(tmp_path: Path) -> None:
    report = report_of(3)
    figure = make_figure(report.results, report.arms, SOURCE_LOSS, None)
    page = write_page(tmp_path, report, figure).read_text(encoding="utf-8")
    assert "zero-padded + silent layers between" in page
    names = {trace.name for trace in figure.data if trace.showlegend}
    assert names == {
        "small model continued",
        "large model from scratch",
        "zero-padded + silent layers between",
    }


def test_the_chart_charges_the_source_only_where_its_training_is_known() -> None:
    report = report_of(1)
    assert make_figure(report.results, report.arms, SOURCE_LOSS, 1e14).layout.updatemenus
    assert not make_figure(report.results, report.arms, SOURCE_LOSS, None).layout.updatemenus


def test_a_model_from_scratch_is_not_charged_for_the_small_one() -> None:
    report = report_of(1)
    (menu,) = make_figure(report.results, report.arms, SOURCE_LOSS, 1e14).layout.updatemenus
    alone, charged = (button["args"][0]["x"] for button in menu.buttons)
    strategies = [curve.arm.strategy for curve in make_curves(report.results, report.arms)]
    for strategy, before, after in zip(strategies, alone, charged, strict=True):
        assert after[0] - before[0] == (0 if strategy == SCRATCH else 1e14)


def test_the_long_way_down_from_scratch_does_not_flatten_the_others() -> None:
    report = report_of(1)
    low, high = loss_range(make_curves(report.results, report.arms), SOURCE_LOSS)
    assert low < 3.4
    assert 4.5 < high < 5


def test_the_difference_is_drawn_against_the_run_of_the_same_seed() -> None:
    report = report_of(3)
    curve = next(
        curve
        for curve in make_curves(report.results, report.arms)
        if curve.arm.strategy == DEFAULT_STRATEGY
    )
    assert curve.above is not None
    assert [row[1] for row in curve.above] == pytest.approx([0.1, 0.09, 0.08])


def test_without_the_control_the_chart_still_comes() -> None:
    results = [run for run in make_results(2) if run.strategy != CONTINUED]
    report = make_report(conditions_of(plan_of(num_seeds=2)), results)
    assert all(curve.above is None for curve in make_curves(report.results, report.arms))
    assert page_of(report)


def test_on_a_phone_the_panels_stand_below_each_other() -> None:
    """Two columns on a phone put titles over each other and names of bars into the curves."""
    figure = make_figure(make_results(1), report_of(1).arms, SOURCE_LOSS, 1e14)
    layout = stacked(num_strategies=5)
    spans = [layout[f"yaxis{panel.axes}.domain"] for panel in PANELS]
    assert all(below[1] < above[0] for above, below in pairwise(spans))
    assert all(layout[f"xaxis{panel.axes}.domain"][1] == 1 for panel in PANELS)
    wide = side_by_side()
    assert set(layout) == set(wide), "turning the phone puts everything back"
    for index, annotation in enumerate(figure.layout.annotations):
        kept = [wide[f"annotations[{index}].{name}"] for name in ("text", "x", "y", "yshift")]
        assert kept == [annotation.text, annotation.x, annotation.y, annotation.yshift]
    assert "matchMedia" in page_of(report_of(1))
