"""The dashboard's charts: shapes and classes, with the figures in words."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.dashboard.charts import Stay, bars, chart_of, lane, spark, top_of
from broker_worker.dashboard.reads.usage import HOUR_MS, Count, Series, span_of

NOW = 1_790_000_000_000
DAY = 24 * HOUR_MS
counts = st.builds(Count, st.integers(0, 10**9), st.integers(0, 10**9))
many = st.lists(counts, min_size=1, max_size=40).map(tuple)


def drawn(series: Series) -> ET.Element:
    """A chart, read as XML."""
    words = [str(index) for index in range(len(series))]
    return ET.fromstring(bars(series, words, name="use", title="Use"))


@given(many)
def test_a_chart_stays_within_its_frame(series: Series) -> None:
    """No bar is taller than the chart, whatever there is to show."""
    for box in drawn(series).iter("rect"):
        y, height = float(box.attrib["y"]), float(box.attrib["height"])
        assert y >= -0.05
        assert y + height <= 100.05


@given(many)
def test_the_upper_edge_is_a_round_number_that_nothing_exceeds(series: Series) -> None:
    """It is 1, 2 or 5 with zeros, and not larger than it need be."""
    top, most = top_of(series), max(count.total for count in series)
    assert re.fullmatch("[125]0*", str(top))
    assert most <= top
    assert top <= max(1, most * 5 // 2)


def test_a_chart_says_in_words_what_it_shows() -> None:
    """A screen reader hears title and sums, and each bar has its own figures."""
    picture = drawn((Count(3, 1), Count(0, 2)))
    assert picture.attrib["role"] == "img"
    named = {element.attrib["id"]: element.text for element in picture.iter() if "id" in element.attrib}
    assert picture.attrib["aria-labelledby"].split() == list(named)
    assert "3 granted, 3 refused" in str(named["use-desc"])
    assert [title.text for title in picture.iter("title")][1:] == ["0: 3 granted, 1 refused", "1: 0 granted, 2 refused"]


def test_a_chart_holds_neither_style_nor_script() -> None:
    """The content security policy would refuse both."""
    for element in drawn((Count(3, 1),)).iter():
        assert not {name for name in element.attrib if name == "style" or name.startswith("on")}
        assert element.tag not in {"style", "script", "a", "image", "use"}


def test_what_a_chart_is_called_is_text() -> None:
    """A name with markup in it cannot break out of the drawing."""
    hostile = '"><script>alert(1)</script>'
    picture = bars((Count(1, 1),), [hostile], name="use", title=hostile)
    assert "<script>" not in picture
    assert "<script>" not in lane([Stay(0, 5, "held", hostile)], 0, 10)
    assert next(title.text for title in ET.fromstring(picture).iter("title")) == hostile


def test_a_tiny_chart_draws_nothing_where_nothing_was() -> None:
    """Only what happened has a bar; screen readers skip it."""
    picture = ET.fromstring(spark((Count(), Count(2, 1), Count())))
    assert picture.attrib["aria-hidden"] == "true"
    assert [box.attrib["class"] for box in picture.iter("rect")] == ["granted", "refused"]


@given(st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), max_size=20))
def test_a_lane_stays_within_its_axis(times: list[tuple[int, int]]) -> None:
    """A lease that began before the axis or ends behind it is cut there."""
    stays = [Stay(start, start + length, "over", "x") for start, length in times]
    for box in ET.fromstring(lane(stays, 10**6, 5 * 10**6)).iter("rect"):
        assert float(box.attrib["x"]) >= 0
        assert float(box.attrib["x"]) + float(box.attrib["width"]) <= 1003.1  # the narrowest is still seen


@pytest.mark.parametrize(("label", "steps", "length"), [("24h", 24, DAY), ("7d", 28, 7 * DAY), ("30d", 30, 30 * DAY)])
def test_a_span_ends_with_the_step_that_holds_the_present(label: str, steps: int, length: int) -> None:
    """Its steps are whole, and the last one is not over yet."""
    span = span_of(label, NOW)
    assert span.steps == steps
    assert span.end - span.start == length
    assert span.end - span.step_ms <= NOW < span.end


@pytest.mark.parametrize("label", [None, "", "1y", "../7d"])
def test_an_unknown_span_is_a_week(label: str | None) -> None:
    """What a link says is checked."""
    assert span_of(label, NOW).label == "7d"


def test_a_chart_as_a_table_leaves_out_empty_steps() -> None:
    """The words below and in the table are those of the steps."""
    span = span_of("30d", NOW)
    series = (Count(),) * (span.steps - 1) + (Count(4, 0),)
    chart = chart_of(series, span, name="use", title="Use")
    assert [(word, count.granted) for word, count in chart.rows] == [("21 Sep", 4)]
    assert chart.marks == ("23 Aug", "7 Sep", "now")
