"""What a scan says: lines for people, JSON for scripts. Places and kinds, never a value or a part of one."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent_sdk.scan.finding import Finding
from agent_sdk.scan.kinds import TITLES
from agent_sdk.scan.tree import Tally

_SHOWN = 20
_COMMIT = 12


@dataclass(frozen=True, slots=True)
class Report:
    """What a scan found.

    Args:
        new: what no baseline knows.
        known: what the baseline knows.
        tally: what was looked at and what was not.
        has_baseline: whether fingerprints mean something beyond this scan.
    """

    new: Sequence[Finding]
    known: Sequence[Finding]
    tally: Tally
    has_baseline: bool


def shown(text: str) -> str:
    """A path as it can be printed: on one line, without control characters, whatever bytes its name has."""
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in readable)


def lines_of(report: Report) -> Iterator[str]:
    """A line a new finding: file, line, column, kind, and the commit of a scan of the history."""
    for each in report.new:
        commit = f"  in commit {each.commit[:_COMMIT]}" if each.commit else ""
        yield f"{shown(each.path)}:{each.line}:{each.column}: {each.kind} ({TITLES[each.kind]}){commit}"


def summary_of(report: Report) -> Iterator[str]:
    """What was looked at, and everything that was not."""
    tally = report.tally
    known = f", {len(report.known)} known" if report.has_baseline else ""
    yield f"{len(report.new)} found{known}, in {tally.files} files"
    skipped = (
        (tally.binary, "binary"),
        (tally.large, "too large"),
        (tally.links, "symbolic links"),
        (tally.folders, "folders"),
    )
    said = [f"{count} {what}" for count, what in skipped if count]
    if said:
        yield f"not looked at: {', '.join(said)}"
    for path, why in tally.unreadable[:_SHOWN]:
        yield f"not read: {shown(path)}: {why}"
    if len(tally.unreadable) > _SHOWN:
        yield f"not read: {len(tally.unreadable) - _SHOWN} more"


def json_of(report: Report) -> str:
    """The report as one JSON object."""
    tally = report.tally
    findings = [
        {
            "path": shown(each.path),
            "line": each.line,
            "column": each.column,
            "kind": each.kind,
            "title": TITLES[each.kind],
            "known": is_known,
            **({"commit": each.commit} if each.commit else {}),
            **({"fingerprint": each.fingerprint} if report.has_baseline else {}),
        }
        for is_known, part in ((False, report.new), (True, report.known))
        for each in part
    ]
    summary = {
        "new": len(report.new),
        "known": len(report.known),
        "files": tally.files,
        "binary": tally.binary,
        "large": tally.large,
        "links": tally.links,
        "folders": tally.folders,
        "unreadable": [{"path": shown(path), "reason": why} for path, why in tally.unreadable],
    }
    return json.dumps({"version": 1, "findings": findings, "summary": summary}, indent=2, ensure_ascii=False)
