"""The pure verifier of one chain: each kind of damage has its name and its place."""

from collections.abc import Callable, Sequence

import msgspec
import nacl.bindings as sodium
import pytest

from agent_sdk.wire.audit import GENESIS, AuditRecord, encode_checkpoint, encode_line, line_hash
from agent_sdk.wire.audit_chain import Anchor, ChainVerifier, Fault, Finding

CHAIN = "0123456789abcdef"
TIME = "2026-09-21T12:00:00.000Z"
PUBLIC, SECRET = sodium.crypto_sign_seed_keypair(bytes(32))
_, OTHER_SECRET = sodium.crypto_sign_seed_keypair(b"\x01" * 32)
RECORD = AuditRecord(v=1, event="access", timestamp=TIME, agent_id="claude")


def chain(length: int = 9, secret: bytes = SECRET, first: int = 0, prev: str = GENESIS) -> list[bytes]:
    """Lines of which every third is a checkpoint."""
    lines = []
    for sequence in range(first, first + length):
        if sequence % 3 == 2:
            lines.append(encode_checkpoint(secret, TIME, "worker-1", CHAIN, sequence, prev))
        else:
            lines.append(encode_line(RECORD, "worker-1", CHAIN, sequence, prev))
        prev = line_hash(lines[-1])
    return lines


def verify(lines: Sequence[bytes], anchors: Sequence[Anchor] = (), prev: str | None = GENESIS) -> list[Finding]:
    """Everything that is wrong with a chain."""
    verifier = ChainVerifier(PUBLIC, CHAIN, "worker-1", prev=prev, anchors=anchors)
    findings: list[Finding] = []
    for number, line in enumerate(lines, 1):
        findings += verifier.feed(line, "log", number)
    return [*findings, *verifier.finish()]


def found(lines: Sequence[bytes], anchors: Sequence[Anchor] = ()) -> list[tuple[Fault, int]]:
    """Faults and the lines where they were found."""
    return [(finding.fault, finding.line) for finding in verify(lines, anchors)]


def test_an_untouched_chain_has_no_findings() -> None:
    """What the broker writes verifies."""
    assert verify(chain()) == []


def _reworded(lines: list[bytes], index: int) -> list[bytes]:
    return [*lines[:index], lines[index].replace(b"claude", b"nobody"), *lines[index + 1 :]]


def _rechained(lines: list[bytes], index: int) -> list[bytes]:
    """Reword a line and mend all hashes after it, as someone would who lacks the key only."""
    decoder = msgspec.json.Decoder()
    changed = _reworded(lines, index)
    for at in range(index + 1, len(changed)):
        old = decoder.decode(changed[at])["prev"].encode()
        changed[at] = changed[at].replace(old, line_hash(changed[at - 1]).encode())
    return changed


def _replaced(lines: list[bytes], old: bytes, new: bytes) -> list[bytes]:
    return [*lines[:3], lines[3].replace(old, new), *lines[4:]]


TAMPERING: dict[str, tuple[Callable[[list[bytes]], list[bytes]], list[tuple[Fault, int]]]] = {
    "a changed line": (lambda c: _reworded(c, 3), [(Fault.CHANGED, 4)]),
    "a changed first line": (lambda c: _reworded(c, 0), [(Fault.CHANGED, 1)]),
    "a changed line with all hashes mended": (
        lambda c: _rechained(c, 3),
        [(Fault.FORGED, 6), (Fault.FORGED, 9), (Fault.UNSIGNED, 4)],
    ),
    "a removed line": (lambda c: c[:3] + c[4:], [(Fault.REMOVED, 4)]),
    "a removed first line": (lambda c: c[1:], [(Fault.REMOVED, 1)]),
    "several removed lines": (lambda c: c[:1] + c[6:], [(Fault.REMOVED, 2)]),
    "a line twice": (lambda c: [*c[:4], c[3], *c[4:]], [(Fault.INSERTED, 5)]),
    "two lines exchanged": (lambda c: [*c[:3], c[4], c[3], *c[5:]], [(Fault.REMOVED, 4), (Fault.REORDERED, 5)]),
    "an invented line": (lambda c: [*c[:4], b"{}", *c[4:]], [(Fault.UNREADABLE, 5)]),
    "a line replaced by junk": (lambda c: [*c[:3], b"\xff", *c[4:]], [(Fault.UNREADABLE, 4)]),
    "an unknown field": (lambda c: [*c[:3], b'{"x":1,' + c[3][1:], *c[4:]], [(Fault.UNREADABLE, 4)]),
    "a line of another chain": (lambda c: _replaced(c, CHAIN.encode(), b"f" * 16), [(Fault.FOREIGN, 4)]),
    "a line of another worker": (lambda c: _replaced(c, b"worker-1", b"worker-2"), [(Fault.FOREIGN, 4)]),
    "a checkpoint of another key": (
        lambda c: [*c[:8], chain(9, OTHER_SECRET)[8]],
        [(Fault.CHANGED, 8), (Fault.FORGED, 9), (Fault.UNSIGNED, 7)],
    ),
    "lines after the last checkpoint": (lambda c: chain(11), [(Fault.UNSIGNED, 10)]),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_tampering_is_named_and_located(name: str) -> None:
    """Each kind of tampering is found as what it is, at the line where it was done."""
    tamper, expected = TAMPERING[name]
    assert found(tamper(chain())) == expected


def test_a_chain_that_does_not_begin_as_it_should_is_found() -> None:
    """The first line must hold the hash that the caller knows."""
    assert [f.fault for f in verify(chain(prev="1" * 64))] == [Fault.CHANGED]
    assert verify(chain(prev="1" * 64), prev=None) == []


def test_a_cut_tail_is_missed_by_its_anchor() -> None:
    """A checkpoint known from elsewhere must be there, even if what is left verifies."""
    lines = chain()
    anchor = Anchor(8, line_hash(lines[8]), "the head")
    assert found(lines, [anchor]) == []
    assert found(lines[:6], [anchor]) == [(Fault.CUT, 6)]
    assert found([], [anchor]) == [(Fault.CUT, 0)]


def test_a_rewritten_end_differs_from_its_anchor() -> None:
    """Someone with the identity key who rewrites the end still contradicts what was published."""
    lines = chain()
    rewritten = chain(6) + chain(3, first=6, prev="2" * 64)
    anchor = Anchor(8, line_hash(lines[8]), "the stream")
    assert (Fault.CHANGED, 9) in found(rewritten, [anchor])


def test_warnings_are_what_a_crash_leaves() -> None:
    """Unsigned lines at the end are a warning; everything that needs a hand is not."""
    (finding,) = verify(chain(10))
    assert finding.is_warning
    assert not any(f.is_warning for f in verify(chain()[1:]))


def test_the_verifier_goes_on_after_a_known_gap() -> None:
    """A gap that was reported as a missing file is not reported again as missing lines."""
    verifier = ChainVerifier(PUBLIC, CHAIN, "worker-1")
    verifier.skip_to(6)
    lines = chain()[6:]
    assert [f for n, line in enumerate(lines, 1) for f in verifier.feed(line, "log", n)] == []
    assert verifier.next_sequence == 9
    assert verifier.prev == line_hash(lines[-1])
    assert verifier.checkpoints == 1
