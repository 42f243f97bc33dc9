"""Small charts, drawn on the server as SVG: shapes and classes only, so that the page's style sheet colours them.

The drawings stretch to the width that there is; whatever must be read as text stands beside them in the page.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from markupsafe import Markup

from broker_worker.dashboard.reads.usage import HOUR_MS, Count, Series, Span

_HEIGHT: Final = 100
_STEP: Final = 10
_GAP: Final = 1.6
_LANE: Final = 12
_WIDTH: Final = 1000


def top_of(series: Series) -> int:
    """The value of a chart's upper edge: the next of 1, 2, 5, 10, 20, 50, … that nothing exceeds."""
    most = max((count.total for count in series), default=0)
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power >= most:
                return factor * power
        power *= 10


def bars(
    series: Series, words: Sequence[str], *, name: str, title: str, kinds: tuple[str, str] = ("granted", "refused")
) -> Markup:
    """A bar a step: what was granted, and on top of it what was refused.

    Args:
        series: what to draw.
        words: what each step is called, such as `14:00`.
        name: tells the drawing's ids apart from others on the page.
        title: what it shows, in a few words.
        kinds: what the two parts of a bar are called.
    """
    total = sum(series, Count())
    top = top_of(series)
    parts = [
        Markup('<svg class="chart" viewBox="0 0 {0} {1}" preserveAspectRatio="none" role="img"').format(
            len(series) * _STEP, _HEIGHT
        ),
        Markup(' aria-labelledby="{0}-title {0}-desc"><title id="{0}-title">{1}</title>').format(name, title),
        Markup('<desc id="{}-desc">{} {}, {} {}; at most {} in one step of {}.</desc>').format(
            name, total.granted, kinds[0], total.refused, kinds[1], max(each.total for each in series), len(series)
        ),
    ]
    parts += [_line(len(series) * _STEP, y) for y in (0.5, _HEIGHT / 2, _HEIGHT - 0.5)]
    for index, (count, word) in enumerate(zip(series, words, strict=True)):
        hint = f"{word}: {count.granted} {kinds[0]}, {count.refused} {kinds[1]}"
        parts.append(_stack(index, count, top, hint))
    return Markup("").join([*parts, Markup("</svg>")])


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing and the words around it.

    Args:
        drawing: from `bars`.
        title: what it shows.
        top: the value of its upper edge.
        marks: what stands below its beginning, its middle and its end.
        kinds: what the two parts of a bar are called.
        rows: what it shows as text: step, first and second part; only steps in which there was something.
    """

    drawing: Markup
    title: str
    top: int
    marks: tuple[str, str, str]
    kinds: tuple[str, str]
    rows: tuple[tuple[str, Count], ...]


def chart_of(
    series: Series, span: Span, *, name: str, title: str, kinds: tuple[str, str] = ("granted", "refused")
) -> Chart:
    """A chart of a span, with its words.

    Args:
        series: one count a step.
        span: when.
        name: tells the drawing's ids apart from others on the page.
        title: what it shows, in a few words.
        kinds: what the two parts of a bar are called.
    """
    words = [_step_words(span.start + index * span.step_ms, span.step_ms) for index in range(len(series))]
    rows = tuple((word, count) for word, count in zip(words, series, strict=True) if count.total)
    marks = (words[0], words[len(words) // 2], "now")
    return Chart(bars(series, words, name=name, title=title, kinds=kinds), title, top_of(series), marks, kinds, rows)


def _step_words(start: int, step_ms: int) -> str:
    moment = datetime.fromtimestamp(start / 1000, UTC)
    if step_ms % (24 * HOUR_MS) == 0:
        return f"{moment.day} {moment:%b}"
    return f"{moment:%H:%M}" if step_ms < 6 * HOUR_MS else f"{moment.day} {moment:%b %H:%M}"


def _line(width: int, y: float) -> Markup:
    return Markup('<line class="grid" x1="0" x2="{0}" y1="{1}" y2="{1}"/>').format(width, y)


def _stack(index: int, count: Count, top: int, hint: str) -> Markup:
    x, width = index * _STEP + _GAP / 2, _STEP - _GAP
    granted, refused = (round(value / top * _HEIGHT, 2) for value in (count.granted, count.refused))
    parts = [Markup("<g><title>{}</title>").format(hint)]
    parts.append(_box("hit", index * _STEP, 0, _STEP, _HEIGHT))
    if granted:
        parts.append(_box("granted", x, _HEIGHT - granted, width, granted))
    if refused:
        parts.append(_box("refused", x, _HEIGHT - granted - refused, width, refused))
    return Markup("").join([*parts, Markup("</g>")])


def _box(kind: str, x: float, y: float, width: float, height: float) -> Markup:
    """A rectangle; there is nothing to escape in a class of ours and numbers."""
    return Markup(f'<rect class="{kind}" x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"/>')  # noqa: S704  # as said


def spark(series: Series, top: int | None = None) -> Markup:
    """A tiny version for a row of a list; the figures stand in the row, so that it is hidden from screen readers.

    Args:
        series: what to draw.
        top: the value of its upper edge; None for the largest of its own.
    """
    edge = top_of(series) if top is None else top
    parts = [
        Markup('<svg class="spark" viewBox="0 0 {} {}" preserveAspectRatio="none" aria-hidden="true">').format(
            len(series) * _STEP, _HEIGHT
        )
    ]
    for index, count in enumerate(series):
        if not count.total:
            continue
        granted, refused = (round(value / edge * _HEIGHT, 2) for value in (count.granted, count.refused))
        x, width = index * _STEP + _GAP / 2, _STEP - _GAP
        if granted:
            parts.append(_box("granted", x, _HEIGHT - granted, width, granted))
        if refused:
            parts.append(_box("refused", x, _HEIGHT - granted - refused, width, refused))
    return Markup("").join([*parts, Markup("</svg>")])


@dataclass(frozen=True, slots=True)
class Stay:
    """A time that something lasted.

    Args:
        start: when it began, ms since the epoch.
        end: when it ended or will.
        kind: its class: `held`, `ended` or `over`.
        hint: what it was, in words.
    """

    start: int
    end: int
    kind: str
    hint: str


def lane(stays: Sequence[Stay], start: int, end: int) -> Markup:
    """Times on a line from `start` to `end`, ms since the epoch; what lies outside is cut."""
    length = max(1, end - start)
    parts = [
        Markup('<svg class="lane" viewBox="0 0 {} {}" preserveAspectRatio="none" role="img" aria-label="{}">').format(
            _WIDTH, _LANE, "; ".join(stay.hint for stay in stays[:8]) + ("; …" if len(stays) > 8 else "")
        ),
        Markup('<line class="grid" x1="0" x2="{0}" y1="{1}" y2="{1}"/>').format(_WIDTH, _LANE / 2),
    ]
    for stay in stays:
        left = max(0.0, (stay.start - start) / length * _WIDTH)
        right = min(float(_WIDTH), (stay.end - start) / length * _WIDTH)
        if right < left:
            continue
        box = _box(stay.kind, round(left, 1), 1, max(3.0, round(right - left, 1)), _LANE - 2)
        parts.append(Markup("<g><title>{}</title>{}</g>").format(stay.hint, box))
    return Markup("").join([*parts, Markup("</svg>")])
