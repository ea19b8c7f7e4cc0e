"""The report of a load run, read as a browser reads it."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from load.histograms import Histogram
from load.report import html
from load.report.charts import path
from load.report.scales import Scale, clock, figure, length, linear, logarithmic, time_ticks
from load.report.series import lines_of
from load.report.words import dropped_in_words, headline, ledger_in_words, sentence
from load.results import Ledger, Run, Second, ServerSide, Tally, Verdict, add_operations
from load.scenario import Threshold
from load.thresholds import Seen, judge
from tests.support.load_runs import Made, tally

VOID = {"meta", "br", "link", "img", "path", "rect"}
OPTIONAL_END = {"tr", "td", "th"}


class Page(HTMLParser):
    """The elements with their attributes, the texts, and the cells of every table."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID | OPTIONAL_END:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID | OPTIONAL_END:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self.tables and self.tables[-1] and self.tables[-1][-1] and "table" in self.open:
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def table(self, *heads: str) -> list[list[str]]:
        """The rows below these first headings."""
        return next(each[1:] for each in self.tables if each and tuple(each[0][: len(heads)]) == heads)


@pytest.fixture(scope="module")
def run() -> Run:
    made = Made(duration_s=60, per_s=60, capacity_per_s=84, errors=0.02).run()
    thresholds = [
        Threshold("get", "p99_ms", 5),
        Threshold("", "error_rate", 0.5),
        Threshold("", "lag_ms", 5000),
    ]
    made.verdicts = judge(thresholds, Seen.of(made))
    return made


@pytest.fixture(scope="module")
def page(run: Run) -> Page:
    return Page(html(run))


def test_every_element_is_closed(page: Page) -> None:
    assert page.open == []


def test_nothing_is_loaded_from_elsewhere(run: Run, page: Page) -> None:
    links = {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}

    assert [attributes for _, attributes in page.elements if links & attributes.keys()] == []
    assert {tag for tag, _ in page.elements} & {
        "link",
        "img",
        "iframe",
        "object",
        "embed",
        "base",
        "form",
    } == set()
    assert not re.search(r"https?:|//[a-z]|@import|url\(", html(run), re.IGNORECASE)


def test_only_the_script_of_the_page_may_run(page: Page) -> None:
    policies = [
        each["content"] for _, each in page.elements if each.get("http-equiv") == "Content-Security-Policy"
    ]

    assert len(policies) == 1
    assert policies[0] is not None
    assert policies[0].startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[A-Za-z0-9+/=]{44}'$", policies[0])
    assert [tag for tag, _ in page.elements].count("script") == 1
    assert not any(name.startswith("on") for _, each in page.elements for name in each)


def test_all_operations_phases_and_roles_are_in_it(run: Run, page: Page) -> None:
    for name in [*run.totals, *(each["name"] for each in run.scenario["phases"]), "projections", "erasures"]:
        assert name in page.text, name


def test_the_scenario_and_its_circumstances_are_in_it(run: Run, page: Page) -> None:
    for value in (*run.machine.values(), *run.versions.values(), *run.profile.values(), run.scenario["seed"]):
        assert str(value) in page.text, value
    assert " ".join(str(run.scenario["text"]).split()) in page.text


def test_the_summary_has_the_figures_of_the_histograms(run: Run, page: Page) -> None:
    rows = {row[0]: row for row in page.table("operation", "wanted")}

    assert [*rows] == [*run.totals, "all"]
    for name, total in run.totals.items():
        latency = Histogram(total.latency)
        expected = [figure(latency.at_ms(each)) for each in (50, 95, 99, 99.9, 100)]
        counts = [total.wanted, total.wanted - total.dropped, total.dropped, total.succeeded]
        assert rows[name][1:5] == [f"{count:,}" for count in counts]
        assert rows[name][6] == f"{sum(total.errors.values()):,}"
        assert rows[name][7:12] == expected


def test_all_operations_have_the_percentiles_of_the_added_histograms(run: Run, page: Page) -> None:
    latency = Histogram()
    for total in run.totals.values():
        latency.add(total.latency)

    (row,) = [row for row in page.table("operation", "wanted") if row[0] == "all"]

    assert row[7:12] == [figure(latency.at_ms(each)) for each in (50, 95, 99, 99.9, 100)]


def test_a_phase_has_the_figures_of_its_seconds(run: Run, page: Page) -> None:
    spike = next(each for each in run.scenario["phases"] if each["name"] == "spike")
    seconds = [each for each in run.seconds if spike["from_s"] <= each.number < spike["to_s"]]
    latency = Histogram()
    for total in add_operations(each.operations for each in seconds).values():
        latency.add(total.latency)

    (row,) = [row for row in page.table("phase", "from") if row[0] == "spike"]

    assert row[7:12] == [figure(latency.at_ms(each)) for each in (50, 95, 99, 99.9, 100)]


def test_the_warm_up_is_marked_as_not_measured(page: Page) -> None:
    assert page.table("phase", "from")[0][0] == "warm-up not measured"


def test_every_chart_has_a_title_a_description_and_its_figures(page: Page) -> None:
    tags = [tag for tag, _ in page.elements]

    assert tags.count("svg") > 20
    assert tags.count("desc") == tags.count("svg") == tags.count("details")
    assert tags.count("title") == tags.count("svg") + 1  # that of the page


def test_charts_over_time_carry_one_figure_for_each_step(page: Page) -> None:
    steps = next(json.loads(each["data-steps"] or "") for _, each in page.elements if "data-steps" in each)
    charts = [json.loads(each["data-values"] or "") for _, each in page.elements if "data-values" in each]

    assert len(charts) > 10
    assert {len(line) for chart in charts for line in chart} == {len(steps)}


HOSTILE = '<script>alert("1")</script>'
BROKEN = "</title></desc></pre></style>'\"><img src=x onerror=alert(1)>&amp;"


@pytest.mark.parametrize("hostile", [HOSTILE, BROKEN])
def test_every_text_of_a_run_is_escaped(hostile: str) -> None:
    run = Made(duration_s=12, per_s=30, mix={hostile: (1.0, 3.0)}).run()
    run.seconds[5].operations[hostile] = tally([1.0] * 5, errors={hostile: 5})
    run.totals[hostile] = tally([1.0] * 5, errors={hostile: 5})
    phases = [each | {"name": hostile} for each in run.scenario["phases"]]
    run.scenario = {**run.scenario, "name": hostile, "text": hostile, "seed": hostile, "phases": phases}
    run.machine = {hostile: {hostile: [hostile]}}
    run.versions = {hostile: hostile}
    run.profile = {hostile: hostile}
    run.tool = {hostile: 1.0}
    run.started_at = run.ended = hostile
    run.server = [
        ServerSide(
            1, [{"role": hostile, "cpu_percent": 1.0, "memory_mb": 2.0}], {hostile: 1}, {hostile: 2}, 3.0
        )
    ]
    run.verdicts = [Verdict(hostile, hostile, 1.0, 2.0, False), Verdict(hostile, "p99_ms", 1.0, None, False)]
    run.ledger = Ledger(lost=1, findings=[{hostile: hostile}], unproven=[hostile])

    page = Page(html(run))

    tags = [tag for tag, _ in page.elements]
    assert (tags.count("script"), tags.count("img")) == (1, 0)
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert page.open == []
    assert hostile in page.texts


def test_a_run_without_a_single_reply_has_a_report(run: Run) -> None:
    nothing = Run(
        scenario={"name": "none"},
        started_at=run.started_at,
        duration_s=0.0,
        ended="interrupted",
        machine={},
        versions={},
        profile={},
        seconds=[],
        totals={},
        server=[],
        tool={},
    )

    page = Page(html(nothing))

    assert "Interrupted" in page.text
    assert "nothing was measured" in page.text


def test_a_long_run_has_few_steps_and_a_small_file() -> None:
    made = Made(duration_s=4000, per_s=1, mix={"get": (1.0, 2.0)}).run()

    assert len(lines_of(made).axis.steps) <= 160
    assert len(html(made).encode()) < 400_000


def test_steps_end_where_phases_do() -> None:
    phases = (("warm-up", 0.1017, 1, 1), ("steady", 0.8983, 1, 1))
    made = Made(duration_s=590, per_s=1, mix={"get": (1.0, 2.0)}, phases=phases).run()

    axis = lines_of(made).axis

    assert (55, 60) in axis.steps
    assert axis.steps[-1][1] == 590
    assert all(first < last for first, last in axis.steps)
    assert [last for _, last in axis.steps[:-1]] == [first for first, _ in axis.steps[1:]]


def test_the_percentile_of_a_step_is_that_of_its_added_seconds() -> None:
    made = Made(duration_s=400, per_s=1, mix={"get": (1.0, 2.0)}, phases=(("steady", 1.0, 1, 1),)).run()
    made.seconds = [Second(number, {"get": tally([10.0] * 99)}) for number in range(400)]
    made.seconds[1] = Second(1, {"get": tally([1000.0] * 2)})

    lines = lines_of(made)

    assert lines.axis.step_s == 5
    assert lines.all.latency["p50"][0] == pytest.approx(10, rel=0.001)  # an average of p50 would be 208 ms
    assert lines.all.latency["p99.9"][0] == pytest.approx(1000, rel=0.001)


# --- words -----------------------------------------------------------------------------------


def test_a_passed_run_says_what_it_was_judged_by(run: Run) -> None:
    good = Made(duration_s=10, per_s=10).run()
    good.verdicts = judge([Threshold("", "dropped", 0), Threshold("get", "p99_ms", 9999)], Seen.of(good))

    found = headline(good)

    assert (found.state, found.is_good) == ("Passed", True)
    assert found.reasons == ["All 2 thresholds were kept."]
    assert "Ledger: 0 lost, 0 twice of 900 commands." in Page(html(good)).text


def test_a_failed_run_names_the_threshold_and_the_figure() -> None:
    assert sentence(Verdict("get", "p99_ms", 50, 61.234, False)) == (
        "get: p99 61.2 ms, above the limit of 50 ms."
    )
    assert sentence(Verdict("", "per_s", 500, 123.4, False)) == (
        "all operations: throughput 123 /s, below the limit of 500 /s."
    )
    assert sentence(Verdict("", "error_rate", 0.01, 0.0345, False)) == (
        "all operations: error rate 3.45 %, above the limit of 1 %."
    )
    assert sentence(Verdict("", "lag_ms", 50, None, False)) == (
        "all operations: projection lag not measured; the limit is 50 ms."
    )


def test_a_run_whose_ledger_is_not_clean_has_failed() -> None:
    run = Made(duration_s=10, per_s=10).run()
    run.ledger = Ledger(commands=1200, lost=3, twice=1, wrong=2)

    found = headline(run)

    assert (found.state, found.is_good) == ("Failed", False)
    assert found.reasons == ["The ledger is not clean: 3 lost, 1 twice, 2 wrong rows of 1,200 commands."]


def test_what_the_tool_itself_dropped_is_said() -> None:
    run = Made(duration_s=10, per_s=10).run()
    run.totals = {"get": tally([1.0] * 15, dropped=5)}
    run.tool = {"dropped_late": 3}

    assert dropped_in_words(run) == (
        "5 of 20 arrivals dropped (25 %); the load processes themselves were too late for 3."
    )


@pytest.mark.parametrize(
    ("ended", "state"), [("interrupted", "Interrupted"), ("aborted: get p99_ms 61 > 50", "Aborted")]
)
def test_a_run_that_ended_early_says_so(ended: str, state: str) -> None:
    run = Made(duration_s=10, per_s=10).run()
    run.ended = ended

    found = headline(run)

    assert (found.state, found.is_good) == (state, False)
    assert "after 10 s" in found.reasons[-1]


def test_a_run_without_a_ledger_says_that_nothing_was_checked() -> None:
    assert ledger_in_words(None) == "No ledger: what the system kept was not checked."


def test_a_line_is_interrupted_where_nothing_was_measured() -> None:
    points = [(0.0, 0.0), None, (0.2, 1.0), (0.3, 0.5), None, None, (0.6, 0.5)]

    assert path(points) == "M-2 100L2 100M200 0L300 50M598 50L602 50"
    assert path(points, bridged=1) == "M0 100L200 0L300 50M598 50L602 50"


# --- axes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (0.01234, "0.0123"),
        (1.0, "1"),
        (12.345, "12.3"),
        (345.6, "346"),
        (12345.6, "12,346"),
    ],
)
def test_figures_have_three_digits(value: float | None, shown: str) -> None:
    assert figure(value) == shown


@pytest.mark.parametrize("high", [0.3, 1, 7, 99, 100, 1234, 10**9])
def test_a_linear_axis_has_few_rounded_ticks_and_contains_all(high: float) -> None:
    scale = linear([None, 0.1, high])

    assert scale.ticks[0] == 0
    assert scale.high >= high * 0.999
    assert 2 <= len(scale.ticks) <= 6


@pytest.mark.parametrize(("low", "high"), [(5, 5), (0.3, 3000), (1, 9), (0.001, 3_600_000)])
def test_a_logarithmic_axis_contains_all_between_its_ends(low: float, high: float) -> None:
    scale = logarithmic([None, 0, low, high])

    assert 0 <= scale.share(low) < scale.share(high * 1.0001) <= 1
    assert 2 <= len(scale.ticks) <= 11


def test_values_outside_an_axis_are_at_its_ends() -> None:
    scale = Scale(1, 100, (1, 10, 100), is_log=True)

    assert [scale.share(value) for value in (0, 1, 10, 1000)] == [0, 0, 0.5, 1]


def test_times_are_written_as_clocks_and_lengths() -> None:
    assert [clock(at) for at in (0, 65, 3723)] == ["0:00", "1:05", "1:02:03"]
    assert [length(at) for at in (0, 45, 600, 3900)] == ["0 s", "45 s", "10 min", "1 h 5 min"]
    assert time_ticks(600) == [60.0 * index for index in range(11)]


def test_the_page_needs_no_name_that_it_does_not_define() -> None:
    folder = Path(html.__code__.co_filename).parent
    style, page = (folder / "style.css").read_text(), (folder / "page.html").read_text()
    used = set(re.findall(r"var\((--\w+)\)", style)) - {"--colour"}

    assert used <= set(re.findall(r"(--\w+):", style))
    assert "$" not in style
    assert page.startswith("<!doctype html>")
    assert Tally().latency == ""
