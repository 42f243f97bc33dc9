"""How much the scanner finds, and how often it is wrong, on a corpus that is made anew: docs/scan-and-migrate.md."""

from collections import Counter

from scan_corpus import positives
from scan_keys import FORMED, NAMED
from scan_plain import negatives

from agent_sdk.scan.detection import find_secrets
from agent_sdk.scan.kinds import TITLES

SEED = 20261129


def test_recall_and_precision_stay_above_their_floors() -> None:
    """Of planted keys 99 % are found and named rightly, and of what is told 98 % is a key."""
    found, missed, extra, misnamed = 0, Counter[str](), Counter[str](), Counter[tuple[str, str]]()
    for sample in positives(SEED, rounds=3):
        text = sample.text.encode()
        start = text.index(sample.value.encode())
        end = start + len(sample.value.encode())
        matches = find_secrets(text, sample.name)
        hits = [match for match in matches if match.start < end and match.end > start]
        found += bool(hits)
        missed[sample.kind] += not hits
        extra[sample.name] += len(matches) - len(hits)
        misnamed[sample.kind, hits[0].kind if hits else ""] += bool(hits) and hits[0].kind != sample.kind
    for sample in negatives(SEED, rounds=5):
        extra[sample.name] += len(find_secrets(sample.text.encode(), sample.name))
    planted, wrong = found + missed.total(), extra.total()
    assert found / planted >= 0.99, +missed
    assert found / (found + wrong) >= 0.98, +extra
    assert misnamed.total() <= planted * 0.01, +misnamed


def test_every_kind_of_the_corpus_has_a_title() -> None:
    """What is planted is something that a report can name."""
    assert {*FORMED, *NAMED} <= set(TITLES)
