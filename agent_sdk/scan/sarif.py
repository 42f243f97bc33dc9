"""SARIF 2.1.0 (OASIS, 2020): what code scanning of forges and editors take."""

import hashlib
import json
import os
from collections import Counter
from importlib.metadata import version
from typing import Any, Final
from urllib.parse import quote

from agent_sdk.scan.finding import Finding
from agent_sdk.scan.kinds import TITLES
from agent_sdk.scan.report import Report

SCHEMA: Final = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_HELP: Final = (
    "Put the value into the vault, refer to it as secret://NAME, and replace it where it is used: it was readable here."
)


def sarif_of(report: Report) -> str:
    """The report as a SARIF log.

    A result's `place` fingerprint is made of its file, kind and order there, so it says nothing of the value; `value`
    is there with a baseline only, whose salt keys it.
    """
    kinds = sorted({each.kind for each in (*report.new, *report.known)})
    indexes = {kind: index for index, kind in enumerate(kinds)}
    places: Counter[tuple[str, str]] = Counter()
    results = [
        _result(each, indexes, places, is_known=is_known, has_baseline=report.has_baseline)
        for is_known, part in ((False, report.new), (True, report.known))
        for each in part
    ]
    driver = {
        "name": "secret-agent scan",
        "semanticVersion": version("secret-broker"),
        "rules": [_rule(kind) for kind in kinds],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": results,
        "invocations": [
            {
                "executionSuccessful": True,
                "toolExecutionNotifications": [
                    {"level": "warning", "message": {"text": f"not read: {why}"}, "locations": [_location(path)]}
                    for path, why in report.tally.unreadable
                ],
            }
        ],
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _rule(kind: str) -> dict[str, Any]:
    return {
        "id": kind,
        "shortDescription": {"text": f"Plaintext secret: {TITLES[kind]}"},
        "help": {"text": _HELP},
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security"], "security-severity": "8.0"},
    }


def _result(
    each: Finding, indexes: dict[str, int], places: "Counter[tuple[str, str]]", *, is_known: bool, has_baseline: bool
) -> dict[str, Any]:
    places[each.path, each.kind] += 1
    place = f"{_uri(each.path)}\0{each.kind}\0{places[each.path, each.kind]}"
    fingerprints = {"place/v1": hashlib.sha256(place.encode()).hexdigest()[:32]}
    if has_baseline:
        fingerprints["value/v1"] = each.fingerprint
    commit = f" It stands in git's history since commit {each.commit}." if each.commit else ""
    return {
        "ruleId": each.kind,
        "ruleIndex": indexes[each.kind],
        "level": "error",
        "message": {"text": f"A plaintext secret stands here: {TITLES[each.kind]}.{commit}"},
        "locations": [_location(each.path, {"startLine": each.line, "startColumn": each.column})],
        "partialFingerprints": fingerprints,
        **({"baselineState": "unchanged" if is_known else "new"} if has_baseline else {}),
    }


def _location(path: str, region: dict[str, int] | None = None) -> dict[str, Any]:
    place: dict[str, Any] = {"artifactLocation": {"uri": _uri(path)}}
    return {"physicalLocation": place if region is None else {**place, "region": region}}


def _uri(path: str) -> str:
    """A path as a URI reference, any bytes in it percent-encoded (RFC 3986, section 2.1)."""
    text = quote(os.fsencode(path.replace(os.sep, "/")))
    return f"file://{text}" if text.startswith("/") else text
