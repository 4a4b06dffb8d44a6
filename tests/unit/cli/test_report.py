"""The page for whoever pays: nothing is counted twice, and nothing is forgotten."""

import re
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from goodput_operator import cli
from goodput_operator.cli.page import plain
from goodput_operator.cli.report import (
    COUNTER,
    RESTARTS,
    STEPS,
    Key,
    Pace,
    Price,
    Report,
    Values,
    added,
    figure_rows,
    gather,
    headline,
    hours,
    parse_since,
    report_html,
    report_page,
    slices_of,
)
from tests.unit.cli.test_markup import HOSTILE, check

NOW = datetime(2026, 1, 31, 12, 34, 56, tzinfo=UTC)
HOUR = 3600.0


@pytest.mark.parametrize(
    ("text", "length"),
    [
        ("30d", timedelta(days=30)),
        ("12h", timedelta(hours=12)),
        ("90m", timedelta(minutes=90)),
        ("2w", timedelta(days=14)),
        ("5m", timedelta(minutes=5)),
    ],
)
def test_a_length_of_time_is_said_as_prometheus_does(text: str, length: timedelta) -> None:
    assert parse_since(text) == length


@pytest.mark.parametrize(
    "text", ["", "d", "30", "30s", "-3d", "3.5d", "1m", "0d", "9999999999d", "4000d", "٣d", "1 d"]
)
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"30d, 12h or 90m|from 5m to 3660d"):
        parse_since(text)


@pytest.mark.parametrize(
    ("since", "step"),
    [
        (timedelta(minutes=5), timedelta(minutes=1)),
        (timedelta(hours=1), timedelta(minutes=2)),
        (timedelta(hours=24), timedelta(hours=1)),
        (timedelta(days=7), timedelta(hours=6)),
        (timedelta(days=30), timedelta(days=1)),
        (timedelta(days=365), timedelta(days=12)),
    ],
)
def test_the_parts_of_a_time_begin_with_the_day_or_the_hour(
    since: timedelta, step: timedelta
) -> None:
    parts = slices_of(since, NOW)
    assert parts[0].begin == NOW - since
    assert parts[-1].end == NOW
    assert len(parts) <= 33
    assert all(one.end == other.begin for one, other in pairwise(parts))
    assert all(part.end - part.begin == step for part in parts[1:-1])
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert all((part.begin - epoch) % step == timedelta(0) for part in parts[1:])


@given(
    st.timedeltas(timedelta(minutes=5), timedelta(days=3660)),
    st.integers(0, 2**31).map(lambda seconds: datetime.fromtimestamp(seconds, UTC)),
)
def test_every_time_has_whole_parts(since: timedelta, now: datetime) -> None:
    parts = slices_of(timedelta(seconds=int(since.total_seconds())), now)
    assert 1 <= len(parts) <= 33
    assert all(part.seconds >= 1 for part in parts)


def test_what_was_added_is_the_difference_or_all_of_a_new_counter() -> None:
    known = {("a",): 5.0, ("anew",): 50.0, ("tail",): 50.0, ("gone",): 9.0}
    newest = {("a",): 8.0, ("new",): 3.0, ("anew",): 4.0, ("tail",): 60.0}
    assert added(known, newest, {("tail",): 70.0}) == {
        ("a",): 3.0,
        ("new",): 3.0,
        ("anew",): 4.0,
        ("tail",): 70.0,
    }


class Store:
    """Counters as a Prometheus has them: (moment, value) by labels; values only grow."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[Key, list[tuple[datetime, float]]]] = defaultdict(dict)
        self.best: Values = {}
        self.asked: list[str] = []

    def add(self, metric: str, key: Key, *samples: tuple[datetime, float]) -> None:
        self.samples[metric].setdefault(key, []).extend(samples)

    def ask(self, query: str, at: datetime, labels: tuple[str, ...]) -> Values:
        self.asked.append(query)
        if "resets(" in query:
            return {}
        if "min_over_time(" in query:
            return self.best
        found = re.fullmatch(r"max by \((.*)\) \(last_over_time\((\w+)\[(\d+)s\]\)\)", query)
        assert found is not None
        assert tuple(found.group(1).split(", ")) == labels
        since = at - timedelta(seconds=int(found.group(3)))
        newest = {}
        for key, samples in self.samples[found.group(2)].items():
            inside = [value for moment, value in samples if since < moment <= at]
            if inside:
                newest[key] = inside[-1]
        return newest


def filled() -> Report:
    store = Store()
    for job, rate, begin in (("old", 4, -40), ("young", 8, -10)):
        days = range(begin, 1)
        for bucket, part in (("productive", 0.75), ("lost_work", 0.15), ("queued", 0.1)):
            samples = [
                (NOW + timedelta(days=day), rate * part * (day - begin) * 24 * HOUR) for day in days
            ]
            store.add(COUNTER, ("lab", job, bucket), *samples)
        store.add(
            RESTARTS, ("lab", job), *[(NOW + timedelta(days=day), day - begin) for day in days]
        )
    return gather(store.ask, slices_of(timedelta(days=30), NOW))


def test_of_an_old_job_what_was_before_is_not_counted_again() -> None:
    report = filled()
    assert sum(report.jobs["lab", "old"].values()) == 30 * 24 * 4 * 3_600_000
    assert sum(report.jobs["lab", "young"].values()) == 10 * 24 * 8 * 3_600_000
    assert report.restarts == {("lab", "old"): 30, ("lab", "young"): 10}


def test_the_parts_sum_to_the_jobs() -> None:
    report = filled()
    by_job = sum(sum(buckets.values()) for buckets in report.jobs.values())
    by_time = sum(sum(buckets.values()) for _, buckets in report.slices)
    assert by_job == by_time == sum(report.buckets.values())
    assert list(report.buckets) == ["productive", "queued", "lost_work"]


@given(
    st.dictionaries(
        st.tuples(st.just("ns"), st.sampled_from("abc"), st.sampled_from(["productive", "queued"])),
        st.lists(st.tuples(st.integers(0, 29 * 24), st.integers(0, 1000)), min_size=1, max_size=20),
        max_size=5,
    )
)
def test_whatever_gaps_there_are_each_counter_is_counted_to_its_end_once(
    counters: dict[Key, list[tuple[int, int]]],
) -> None:
    store, ends = Store(), {}
    for key, steps in counters.items():
        value, samples = 0.0, []
        for hour, more in sorted(steps):
            value += more
            samples.append((NOW - timedelta(hours=29 * 24 - hour), value))
        store.add(COUNTER, key, *samples)
        ends[key] = value
    report = gather(store.ask, slices_of(timedelta(days=30), NOW))
    assert sum(report.buckets.values()) == sum(ends.values()) * 1000


def test_how_often_prometheus_is_asked_does_not_grow_with_the_jobs() -> None:
    store = Store()
    gather(store.ask, slices_of(timedelta(days=30), NOW))
    assert len(store.asked) <= 4 * 33 + 5
    assert all("namespace, job" in query for query in store.asked)


def test_the_headline_says_it_all() -> None:
    assert headline(filled(), None) == (
        "75.0% of 4,800 h of accelerator time was productive; 1,200 h were not."
    )
    assert "1,200 h, worth €3,000, were not" in headline(filled(), Price(2.5, "€"))


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [
        (0, "0 h"),
        (3_600_000, "1 h"),
        (5_400_000, "1.5 h"),
        (360_000_000, "100 h"),
        (36_000, "0.01 h"),
    ],
)
def test_hours_are_told_as_exactly_as_they_matter(milliseconds: int, text: str) -> None:
    assert hours(milliseconds) == text


def test_the_report_in_a_terminal() -> None:
    text = plain(report_page(filled(), None))
    assert "2026-01-01 12:34:56 to 2026-01-31 12:34:56 UTC, 2 jobs\n" in text
    assert "lost_work     60.0%   720 h   steps that were lost and trained again\n" in text
    lines = [one.split() for one in text.splitlines() if one.startswith("lab")]
    assert [one[1] for one in lines] == ["old", "young"]
    assert lines[0][2:7] == ["75.0%", "720", "h", "2,880", "h"]


def test_the_report_is_one_sound_page_with_pictures() -> None:
    page = report_html(filled(), Price(2.5))
    reader = check(page)
    assert reader.tags.count("svg") == 4
    assert "$1,800" in page


def test_many_jobs_and_namespaces_do_not_swell_the_page() -> None:
    [(part, _)] = filled().slices[:1]
    jobs = {(f"ns{n % 50}", f"job{n}"): {"productive": 5, "queued": n} for n in range(10_000)}
    report = Report(((part, {"productive": 5}),), jobs, {}, {})
    page = report_html(report, None)
    check(page)
    assert "(20 of 10000)" in page
    assert len(page) < 100_000


def test_names_stay_text() -> None:
    [(part, _)] = filled().slices[:1]
    jobs = {(HOSTILE, HOSTILE): {"productive": 5, HOSTILE: 7}, ("b", "模型/ü"): {"queued": 1}}
    report = Report(((part, {"productive": 5, HOSTILE: 7}),), jobs, {}, {})
    check(report_html(report, Price(1, "<€>")))
    assert "\x1b" not in plain(report_page(report, None))


def test_a_time_in_which_nothing_was_counted_is_told_too() -> None:
    [(part, _)] = filled().slices[:1]
    empty = Report(((part, {}),), {("a", "b"): {}}, {}, {})
    check(report_html(empty, None))
    assert "- of 0 h" in plain(report_page(empty, None))


def trained(*jobs: tuple[str, float]) -> Report:
    """Jobs that keep a step every 2 accelerator-seconds, for ten days, 2,000 of them lost."""
    store = Store()
    for job, best in jobs:
        hours = [NOW - timedelta(days=10) + timedelta(hours=hour) for hour in range(10 * 24 + 1)]
        for bucket, part in (("productive", 0.8), ("lost_work", 0.2)):
            samples = [(at, place * HOUR * part) for place, at in enumerate(hours)]
            store.add(COUNTER, ("lab", job, bucket), *samples)
        if best:
            steps = [(at, 5000 + place * HOUR * 0.4) for place, at in enumerate(hours)]
            store.add(STEPS, ("lab", job), *steps)
            store.best = {**store.best, ("lab", job): best}
    return gather(store.ask, slices_of(timedelta(days=7), NOW))


def test_the_yardstick_is_a_jobs_own_best_hour() -> None:
    report = trained(("a", 1.5), ("b", 1.0))
    pace = report.paces["lab", "a"]
    assert (pace.best, pace.seconds / pace.steps) == (1.5, pytest.approx(2.0))
    rows = {name: value for name, value, _ in figure_rows(report)}
    assert rows["program goodput"] == "62.5%"
    assert rows["MPG"] == "50.0%"


def test_no_best_hour_is_worse_than_the_average() -> None:
    assert trained(("a", 3.0)).paces["lab", "a"].best == pytest.approx(2.0)


def test_of_jobs_whose_steps_cannot_be_seen_nothing_is_made_up() -> None:
    rows = {name: (value, words) for name, value, words in figure_rows(trained(("a", 0)))}
    assert rows["program goodput"] == (
        "unknown",
        "ideal time, at a job's own best hour ÷ productive: of 0 of 1 jobs",
    )
    assert rows["MPG"][0] == "unknown"
    some = {name: (value, words) for name, value, words in figure_rows(trained(("a", 1), ("b", 0)))}
    assert some["program goodput"][0] == "50.0%"
    assert some["MPG"] == ("40.0%", "of those jobs: scheduling × runtime × program")


def test_a_former_job_of_the_name_that_was_further_adds_no_steps() -> None:
    store, key = Store(), ("lab", "a")
    began = NOW - timedelta(hours=20)
    for hour, (step, spent) in enumerate([(900, 1000), (950, 2000), (10, 2500), (110, 4500)]):
        store.add(STEPS, key, (began + timedelta(hours=hour), step))
        store.add(COUNTER, (*key, "productive"), (began + timedelta(hours=hour), spent))
    store.best = {key: 20.0}
    report = gather(store.ask, slices_of(timedelta(days=1), NOW))
    assert report.paces[key] == Pace(steps=150, seconds=3000, best=20.0)


@pytest.mark.parametrize("metric", [COUNTER, RESTARTS, STEPS])
def test_the_metrics_that_are_asked_for_are_exposed(metric: str) -> None:
    root = Path(cli.__file__).parents[1]
    sources = [*root.glob("metrics.py"), *root.glob("metrics/*.py")]
    assert any(f'"{metric}"' in path.read_text() for path in sources)
