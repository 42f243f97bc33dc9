"""Cases of audit.json: single lines, checkpoints, whole chains, and entries of the stream."""

import hashlib
from typing import Any

from wire_reference import Case, case, compact, keypair, signature

_MALFORMED, _NOT_CANONICAL = "invalid/malformed", "invalid/not_canonical"
_IDENTITY, _SECRET = keypair("broker identity")
_CHAIN, _WORKER, _GENESIS = "0123456789abcdef", "worker-1", "0" * 64
_TAG = b"secret-broker audit checkpoint v1\x00"
_ACCESS = {
    "v": 1,
    "event": "access",
    "timestamp": "2027-01-15T08:00:00.000Z",
    "agent_id": "claude",
    "run_id": "run-1",
    "secret_name": "openai.api_key",
    "outcome": "granted",
    "source": "stale",
    "age_s": 400,
    "reason": "granted",
    "action": "resolve",
    "purpose": "open a pull request",
    "rule": "policy.yaml:4",
    "policy": "ab" * 32,
    "provider": "local",
    "version": "7",
    "expires_at": "2027-01-15T08:05:00.000Z",
    "lease_id": "101112131415161718191a1b1c1d1e1f",
    "lease_ends": "2027-01-15T09:00:00.000Z",
    "uses": 2,
    "approval_id": "2021222324252627",
    "approver": "maria,tom",
    "request_id": "000102030405060708090a0b0c0d0e0f",
    "entry_id": "1800000000000-0",
    "run_key": "a" * 26,
    "token_id": "token-1",
    "issuer": "orchestrator",
    "task": "Ticket 42",
    "latency_us": 350,
}
_SHORT: dict[str, object] = {"v": 1, "event": "unauthenticated", "timestamp": "2027-01-15T08:00:00.001Z", "count": 12}
_REFUSED: dict[str, object] = {
    "v": 1,
    "event": "access",
    "timestamp": "2027-01-15T08:00:00.002Z",
    "agent_id": "random-script",
    "secret_name": "openai.api_key",
    "outcome": "refused",
    "code": "denied",
    "reason": "no_grant",
    "purpose": 'say "\u00fc", \\ and\n\u0001 \U0001f511',
}
_ASKED: dict[str, object] = {
    "agent_id": "claude",
    "run_id": "run-1",
    "secret_name": "db.root,db.replica",
}
_PEOPLE: dict[str, dict[str, object]] = {
    "approval_requested": {
        **_ASKED,
        "action": "resolve",
        "purpose": "restore the backup",
        "rule": "policy.yaml:9",
        "policy": "ab" * 32,
        "expires_at": "2027-01-15T08:10:00.000Z",
        "approval_id": "2021222324252627",
        "approver": "ops,maria",
        "request_id": "000102030405060708090a0b0c0d0e0f",
        "task": "Ticket 42",
    },
    "approval_decided": {
        **_ASKED,
        "outcome": "refused",
        "reason": "not on a Friday",
        "approval_id": "2021222324252627",
        "approver": "maria",
    },
    "approval_settled": {**_ASKED, "outcome": "refused", "reason": "denied", "approval_id": "2021222324252627"},
    "decision_refused": {"reason": "bad_signature", "approval_id": "2021222324252627", "approver": "mallory"},
    "revoked": {"reason": "laptop lost", "approver": "maria", "subject": "secret:db.root@7"},
    "reinstated": {"reason": "laptop found", "approver": "maria", "subject": "run:claude/run-1"},
    "lease_ended": {
        **_ASKED,
        "reason": "revoked",
        "version": "7",
        "lease_id": "101112131415161718191a1b1c1d1e1f",
        "subject": "run:claude/run-1",
    },
    "notified": {"outcome": "granted", "reason": "webhook", "approval_id": "2021222324252627"},
    "job_refused": {"reason": "not_sealed", "count": 3},
    "write_started": {**_ASKED, "action": "put", "request_id": "0123456789abcdef0123456789abcdef"},
    "value_written": {"secret_name": "db.root", "outcome": "granted", "action": "put", "approver": "maria"},
    "rotation": {"secret_name": "db.root", "outcome": "refused", "reason": "probe_failed", "approver": "schedule"},
    "write_unsettled": {"secret_name": "db.root", "request_id": "0123456789abcdef0123456789abcdef"},
}
_DELIVERIES = ("value", "env", "file", "proxy", "env,file")


def _place(sequence: int, prev: str, **more: object) -> dict[str, object]:
    place = {
        "event_id": f"{_CHAIN}-{sequence:012d}",
        "worker": _WORKER,
        "chain": _CHAIN,
        "sequence": sequence,
        "prev": prev,
    }
    return {**place, **more}


def _line(record: dict[str, Any], sequence: int = 0, prev: str = _GENESIS, **more: object) -> bytes:
    return compact({**record, **_place(sequence, prev, **more)})


def _event(event: str, fields: dict[str, object]) -> dict[str, object]:
    return {"v": 1, "event": event, "timestamp": "2027-01-15T08:00:00.000Z", **fields}


def _delivered(way: object) -> dict[str, object]:
    return _event("access", {"secret_name": "db.root", "outcome": "granted", "action": "resolve", "deliver": way})


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def _checkpoint(sequence: int, prev: str, secret: bytes = _SECRET) -> bytes:
    unsigned = {"v": 1, "event": "checkpoint", "timestamp": "2027-01-15T08:00:00.003Z"}
    signed = signature(secret, _TAG + _line(unsigned, sequence, prev)).hex()
    return _line({**unsigned, "signature": signed}, sequence, prev)


def _chain(*records: dict[str, Any], secret: bytes = _SECRET) -> list[bytes]:
    lines: list[bytes] = []
    prev = _GENESIS
    for sequence, record in enumerate(records):
        lines.append(_line(record, sequence, prev) if record else _checkpoint(sequence, prev, secret))
        prev = _hash(lines[-1])
    return lines


def _look(name: str, expect: str, line: bytes, comment: str = "") -> Case:
    return case(name, expect, comment, kind="line", line=_text(line))


def _text(line: bytes) -> str | bytes:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line


def _line_cases() -> list[Case]:
    good = _line(_SHORT)
    spelled_out = {**_SHORT, "agent_id": None}
    faults: dict[str, tuple[str, bytes]] = {
        "nothing": (_MALFORMED, b""),
        "no JSON": (_MALFORMED, b"access claude openai.api_key"),
        "a list": (_MALFORMED, b"[]"),
        "cut": (_MALFORMED, good[:-1]),
        "line feed inside": (_NOT_CANONICAL, good + b"\n"),
        "space behind a comma": (_NOT_CANONICAL, good.replace(b",", b", ", 1)),
        "two lines in one": (_MALFORMED, good + good),
        "schema version 2": (_MALFORMED, _line({**_SHORT, "v": 2})),
        "unknown event": (_MALFORMED, _line({**_SHORT, "event": "nothing_happened"})),
        "unknown field": (_MALFORMED, _line({**_SHORT, "value": "x"})),
        "unknown outcome": (_MALFORMED, _line({**_REFUSED, "outcome": "maybe"})),
        "unknown code": (_MALFORMED, _line({**_REFUSED, "code": "because"})),
        "field twice": (_NOT_CANONICAL, good.replace(b'"count":12', b'"count":11,"count":12')),
        "fields in another order": (_NOT_CANONICAL, compact({**_place(0, _GENESIS), **_SHORT})),
        "absent field spelled out": (_NOT_CANONICAL, _line(spelled_out)),
        "escape that is not needed": (_NOT_CANONICAL, good.replace(b"worker-1", b"worker\\u002d1")),
        "time without milliseconds": (_MALFORMED, _line({**_SHORT, "timestamp": "2027-01-15T08:00:00Z"})),
        "time with an offset": (_MALFORMED, _line({**_SHORT, "timestamp": "2027-01-15T09:00:00.000+01:00"})),
        "uses of zero": (_MALFORMED, _line({**_ACCESS, "uses": 0})),
        "uses as text": (_MALFORMED, _line({**_ACCESS, "uses": "2"})),
        "field of a lease behind those of the request": (
            _NOT_CANONICAL,
            _line({**{key: value for key, value in _ACCESS.items() if key != "uses"}, "uses": 2}),
        ),
        "delivered in two ways in another order": (_MALFORMED, _line(_delivered("file,env"))),
        "delivered in an unknown way": (_MALFORMED, _line(_delivered("mail"))),
        "delivered in two ways as a list": (_MALFORMED, _line(_delivered(["env", "file"]))),
        "count of zero": (_MALFORMED, _line({**_SHORT, "count": 0})),
        "negative age": (_MALFORMED, _line({**_SHORT, "age_s": -1})),
        "negative latency": (_MALFORMED, _line({**_SHORT, "latency_us": -1})),
        "count as a float": (_MALFORMED, good.replace(b'"count":12', b'"count":12.0')),
        "negative sequence": (_MALFORMED, _line(_SHORT, sequence=-1)),
        "chain of 15 digits": (_MALFORMED, _line(_SHORT, chain=_CHAIN[:15])),
        "chain in upper case": (_MALFORMED, _line(_SHORT, chain=_CHAIN.upper())),
        "event id of another sequence": (_MALFORMED, _line(_SHORT, event_id=f"{_CHAIN}-000000000001")),
        "prev of 63 digits": (_MALFORMED, _line(_SHORT, prev="0" * 63)),
        "prev missing": (_MALFORMED, compact({**_SHORT, **_without("prev")})),
        "not UTF-8": (_MALFORMED, good.replace(b"worker-1", b"worker\xff1")),
        "half a surrogate pair": (_MALFORMED, _line(_REFUSED).replace(b"\\n", b"\\ud800")),
        "nested 5,000 deep": (_MALFORMED, b"[" * 5000),
        "8193 bytes": ("too_large/too_large", _line({**_REFUSED, "purpose": "p" * 8192})),
    }
    return [
        _look("access, all fields", "ok", _line(_ACCESS)),
        _look("refused, with text that must be escaped", "ok", _line(_REFUSED)),
        _look("counted junk", "ok", good),
        *(_look(f"delivered as {way}", "ok", _line(_delivered(way))) for way in _DELIVERIES),
        *(_look(event, "ok", _line(_event(event, fields))) for event, fields in _PEOPLE.items()),
        _look("late in a chain", "ok", _line(_SHORT, 2**53 - 1, "f" * 64)),
        _look("checkpoint", "ok", _checkpoint(1, _hash(good))),
        *(_look(name, expect, line) for name, (expect, line) in faults.items()),
    ]


def _without(name: str) -> dict[str, object]:
    return {key: value for key, value in _place(0, _GENESIS).items() if key != name}


def _chain_cases() -> list[Case]:
    lines = _chain(_ACCESS, _SHORT, {}, _REFUSED, {})
    other = _chain(_ACCESS, _SHORT, {}, secret=keypair("another broker")[1])
    changed = lines[1].replace(b'"count":12', b'"count":13')
    late = lines[4].replace(b"08:00:00.003Z", b"09:00:00.003Z")
    upper = _upper_signature(lines[4])

    def look(name: str, expect: str, *chain: bytes) -> Case:
        hashes = {"hashes": [_hash(line) for line in chain]} if expect == "ok" else {}
        return case(
            name,
            expect,
            kind="chain",
            identity=_IDENTITY,
            chain=_CHAIN,
            worker=_WORKER,
            lines=[line.decode() for line in chain],
            **hashes,
        )

    return [
        look("two batches", "ok", *lines),
        look("one batch", "ok", *lines[:3]),
        look("a line changed", "changed", lines[0], changed, *lines[2:]),
        look("a line removed", "removed", lines[0], *lines[2:]),
        look("first line removed", "removed", *lines[1:]),
        look("a line twice", "inserted", *lines[:2], lines[1], *lines[2:]),
        look("two lines exchanged", "removed", lines[0], lines[2], lines[1], *lines[3:]),
        look("tail after the last checkpoint", "unsigned", *lines[:4]),
        look("checkpoints of another broker", "forged", *other),
        look("a checkpoint's time changed", "forged", *lines[:4], late),
        look("a checkpoint's signature in capitals", "forged", *lines[:4], upper),
    ]


def _upper_signature(line: bytes) -> bytes:
    head, tail = line.split(b'"signature":"', 1)
    return head + b'"signature":"' + tail[:128].upper() + tail[128:]


def _entry(name: str, expect: str, **fields: bytes) -> Case:
    shown = {field: value if len(value) > 4096 else _text(value) for field, value in fields.items()}
    return case(name, expect, kind="entry", fields=shown)


def _entry_cases() -> list[Case]:
    lines = _chain(_ACCESS, _SHORT, {})
    good = {"c": _CHAIN.encode(), "s": b"0", "n": b"3", "d": b"\n".join(lines)}
    most = 96 * 1024
    faults: dict[str, dict[str, bytes]] = {
        "chain of 15 digits": {**good, "c": _CHAIN[:15].encode()},
        "chain in capitals": {**good, "c": _CHAIN.upper().encode()},
        "chain and a line feed": {**good, "c": _CHAIN.encode() + b"\n"},
        "count too low": {**good, "n": b"2"},
        "count too high": {**good, "n": b"4"},
        "count with a leading zero": {**good, "n": b"03"},
        "count of none": {**good, "n": b"0", "d": b""},
        "sequence with a sign": {**good, "s": b"+1"},
        "negative sequence": {**good, "s": b"-1"},
        "sequence with a space": {**good, "s": b" 1"},
        "sequence that is empty": {**good, "s": b""},
        "sequence in other digits": {**good, "s": "\u0661".encode()},
        "lines beyond the last sequence": {**good, "s": b"%d" % (2**53 - 2)},
        "line feed at the end": {**good, "d": good["d"] + b"\n"},
        "no lines": {field: value for field, value in good.items() if field != "d"},
        "a field more": {**good, "e": b"1"},
        "one line and its id": {"e": b"%s-%012d" % (_CHAIN.encode(), 0), "d": lines[0]},
        "no fields": {},
    }
    return [
        _entry("entry of a batch", "ok", **good),
        _entry("entry of one line", "ok", c=good["c"], s=b"2", n=b"1", d=lines[2]),
        _entry("entry late in a chain", "ok", **{**good, "s": b"%d" % (2**53 - 3)}),
        _entry("entry of lines that are no audit lines", "ok", **{**good, "d": b"\n\xff\n"}),
        _entry("entry of 128 lines", "ok", **{**good, "n": b"128", "d": b"\n" * 127}),
        _entry("entry of 129 lines", "too_large/too_large", **{**good, "n": b"129", "d": b"\n" * 128}),
        _entry("entry of 98304 bytes", "ok", **{**good, "n": b"1", "d": b"x" * most}),
        _entry("entry of 98305 bytes", "too_large/too_large", **{**good, "n": b"1", "d": b"x" * (most + 1)}),
        *(_entry(f"entry, {name}", _MALFORMED, **fields) for name, fields in faults.items()),
    ]


def audit_cases() -> list[Case]:
    """Lines that parse or don't, chains that verify or don't, and entries that hold lines or don't."""
    return _line_cases() + _chain_cases() + _entry_cases()
