"""Cases of messages.json and padding.json."""

from typing import Any

from wire_reference import NOW, Case, case, pack, padded

_MALFORMED, _NOT_CANONICAL, _BAD_NAME = "invalid/malformed", "invalid/not_canonical", "invalid/bad_name"
_TOO_LARGE = "too_large/too_large"
_MAX_PLAINTEXT = 258_048
_ID = bytes(range(16))
_LEASE_ID = bytes(range(16, 32))
_LEASE = _LEASE_ID + b"what only the broker reads"
_APPROVAL = bytes(range(32, 40))
_BODY = {"op": "resolve", "names": ["openai.api_key"]}


def _request(body: object = None, **more: object) -> dict[str, Any]:
    fields = {"request_id": _ID, "issued_at": NOW, "deadline": NOW + 15_000, "token": "a.b.c", "body": body or _BODY}
    return {**fields, **more}


def _resolve(**more: object) -> dict[str, Any]:
    return _request({**_BODY, **more})


_CALL = {
    "at": NOW,
    "route": "openai",
    "name": "openai.api_key",
    "host": "api.openai.com",
    "method": "POST",
    "path": "/v1/chat/*",
    "status": 200,
    "sent": 12,
    "received": 345,
    "elapsed": 67,
}


def _report(*calls: object, **subject: object) -> dict[str, Any]:
    return _request({"op": "report", "subject": subject or {"token": "d.e.f"}, "calls": list(calls)})


def _ok(kind: str, name: str, fields: object) -> Case:
    return case(name, "ok", type=kind, fields=fields, bytes=pack(fields))


def _bad(kind: str, name: str, expect: str, raw: object, comment: str = "") -> Case:
    return case(name, expect, comment, type=kind, bytes=raw if isinstance(raw, bytes) else pack(raw))


_REQUESTS_OK = {
    "resolve one name": _request(),
    "resolve with a purpose": _resolve(purpose="open a pull request"),
    "resolve with a purpose in another script": _resolve(purpose="\u00fcbersetzen \u2192 \U0001f511"),
    "resolve with a purpose of 256 characters": _resolve(purpose="p" * 256),
    "resolve for a shorter life": _resolve(ttl=60),
    "resolve for the longest life": _resolve(ttl=2_592_000),
    "resolve 64 names": _resolve(names=[f"secret.n{i}" for i in range(64)]),
    "put": _request({"op": "put", "name": "github.token", "value": b"made-up value", "purpose": "rotation"}),
    "put the largest value": _request({"op": "put", "name": "github.token", "value": bytes(131_072)}),
    "put in the place of a version": _request({"op": "put", "name": "a", "value": b"v", "replaces": "7"}),
    "generate": _request({"op": "generate", "name": "db.password", "recipe": "password:32"}),
    "generate in the place of a version and see it": _request(
        {"op": "generate", "name": "a", "recipe": "hex:32", "replaces": "7", "reveal": True}
    ),
    "renew": _request({"op": "renew", "lease": _LEASE}),
    "renew with the shortest lease": _request({"op": "renew", "lease": _LEASE[:17]}),
    "renew with the longest lease": _request({"op": "renew", "lease": _LEASE_ID + bytes(496)}),
    "release": _request({"op": "release", "lease": _LEASE}),
    "list what there is": _request({"op": "list"}),
    "resolve for the environment of a program": _resolve(deliver="env"),
    "resolve for a file": _resolve(deliver="file"),
    "resolve for the environment and a file of one program": _resolve(deliver="env,file"),
    "resolve two names in two ways": _resolve(names=["a", "b"], ways=["env", "file"]),
    "resolve names in each way that a run can have them": _resolve(
        names=["a", "b", "c", "d"], ways=["value", "env", "file", "env,file"]
    ),
    "resolve 64 names, one of them in another way": _resolve(
        names=[f"secret.n{i}" for i in range(64)], ways=["env,file", *["env"] * 63]
    ),
    "resolve in two ways what for and for how long": _resolve(
        names=["b", "a"], purpose="p", ttl=60, ways=["file", "value"]
    ),
    "resolve for a proxy on behalf of a run": _resolve(deliver="proxy", subject={"token": "d.e.f"}),
    "resolve on behalf of a run with a proof": _resolve(subject={"token": "d.e.f", "proof": "g.h.i"}),
    "resolve on behalf of a run that called itself something": _resolve(
        subject={"token": "d.e.f", "proof": "g.h.i", "agent": "claude", "run": "run-1"}
    ),
    "resolve on behalf of a script that named its agent": _resolve(subject={"token": "sbt_x", "agent": "a" * 64}),
    "report one call": _report(_CALL),
    "report the smallest call": _report(
        {"at": 0, "route": "r", "name": "a", "host": "h", "method": "GET", "path": "/"}
    ),
    "report 64 calls": _report(*[_CALL] * 64),
    "shortest deadline": _request(deadline=NOW + 1),
    "latest time": _request(deadline=2**53 - 1),
    "longest token": _request(token="t" * 4096),
}


def _field_faults() -> dict[str, tuple[str, dict[str, Any]]]:
    return {
        "request id of 15 bytes": (_MALFORMED, _request(request_id=_ID[:15])),
        "request id of 17 bytes": (_MALFORMED, _request(request_id=_ID + b"x")),
        "request id as text": (_MALFORMED, _request(request_id="0123456789abcdef")),
        "negative time": (_MALFORMED, _request(issued_at=-1)),
        "time beyond 2^53": (_MALFORMED, _request(deadline=2**53)),
        "time as text": (_MALFORMED, _request(issued_at="1800000000000")),
        "time as a boolean": (_MALFORMED, _request(issued_at=True)),
        "time as a broken number": (_MALFORMED, _request(issued_at=1.5)),
        "deadline at the time of issue": (_MALFORMED, _request(deadline=NOW)),
        "deadline before the time of issue": (_MALFORMED, _request(deadline=NOW - 1)),
        "empty token": (_MALFORMED, _request(token="")),
        "token of 4097 characters": (_MALFORMED, _request(token="t" * 4097)),
        "body is nil": (_MALFORMED, {**_request(), "body": None}),
        "body is a list": (_MALFORMED, _request(["resolve"])),
        "unknown field": (_MALFORMED, _request(agent_id="claude")),
        "unknown field in the body": (_MALFORMED, _resolve(agent_id="claude")),
        "unknown op": (_MALFORMED, _request({"op": "steal", "names": ["a"]})),
        "op missing": (_MALFORMED, _request({"names": ["a"]})),
        "op last": (_NOT_CANONICAL, _request({"names": ["a"], "op": "resolve"})),
        "field of another op": (_MALFORMED, _request({"op": "list", "names": ["a"]})),
        "no name": (_MALFORMED, _resolve(names=[])),
        "65 names": (_MALFORMED, _resolve(names=[f"n{i}" for i in range(65)])),
        "names as text": (_MALFORMED, _resolve(names="openai.api_key")),
        "name twice": (_MALFORMED, _resolve(names=["a", "b", "a"])),
        "empty name": (_MALFORMED, _resolve(names=[""])),
        "name of 129 characters": (_MALFORMED, _resolve(names=["x" * 129])),
        "name as bytes": (_MALFORMED, _resolve(names=[b"a"])),
        "name in upper case": (_BAD_NAME, _resolve(names=["a", "OpenAI.api_key"])),
        "name with an empty part": (_BAD_NAME, _resolve(names=["a..b"])),
        "name in another script": (_BAD_NAME, _resolve(names=["\u0430"])),
        "name with a star": (_BAD_NAME, _resolve(names=["a.*"])),
        "put under a name that is not canonical": (_BAD_NAME, _request({"op": "put", "name": "A", "value": b"v"})),
        "put a value of 128 KiB and a byte": (
            _MALFORMED,
            _request({"op": "put", "name": "a", "value": bytes(131_073)}),
        ),
        "put a value as text": (_MALFORMED, _request({"op": "put", "name": "a", "value": "v"})),
        "put in the place of no version": (
            _MALFORMED,
            _request({"op": "put", "name": "a", "value": b"v", "replaces": ""}),
        ),
        "generate and not see it, spelled out": (
            _NOT_CANONICAL,
            _request({"op": "generate", "name": "a", "recipe": "hex:32", "reveal": False}),
        ),
        "generate without a recipe": (_MALFORMED, _request({"op": "generate", "name": "a"})),
        "purpose of 257 characters": (_MALFORMED, _resolve(purpose="p" * 257)),
        "deliver in an unknown way": (_MALFORMED, _resolve(deliver="mail")),
        "deliver the value, spelled out": (_NOT_CANONICAL, _resolve(deliver="value")),
        "deliver in two ways in another order": (_MALFORMED, _resolve(deliver="file,env")),
        "deliver in two ways that no program takes": (_MALFORMED, _resolve(deliver="value,env")),
        "ways of no name": (_NOT_CANONICAL, _resolve(ways=[])),
        "ways of one name": (_MALFORMED, _resolve(ways=["env"])),
        "ways that are all alike": (_MALFORMED, _resolve(names=["a", "b"], ways=["env", "env"])),
        "ways of fewer than all names": (_MALFORMED, _resolve(names=["a", "b", "c"], ways=["env", "file"])),
        "ways of more than all names": (_MALFORMED, _resolve(names=["a", "b"], ways=["env", "file", "env"])),
        "65 ways": (_MALFORMED, _resolve(names=[f"n{i}" for i in range(64)], ways=["file", *["env"] * 64])),
        "ways beside a way for all": (_MALFORMED, _resolve(names=["a", "b"], deliver="env", ways=["env", "file"])),
        "ways beside the default for all": (
            _NOT_CANONICAL,
            _resolve(names=["a", "b"], deliver="value", ways=["env", "file"]),
        ),
        "ways with a proxy among them": (_MALFORMED, _resolve(names=["a", "b"], ways=["env", "proxy"])),
        "ways with an unknown one": (_MALFORMED, _resolve(names=["a", "b"], ways=["env", "mail"])),
        "ways on behalf of a run": (
            _MALFORMED,
            _resolve(names=["a", "b"], subject={"token": "d.e.f"}, ways=["env", "file"]),
        ),
        "ways before the subject": (
            _NOT_CANONICAL,
            _resolve(names=["a", "b"], ways=["env", "file"], subject={"token": "d.e.f"}),
        ),
        "ways as a text": (_MALFORMED, _resolve(names=["a", "b"], ways="env,file")),
        "ways by name": (_MALFORMED, _resolve(names=["a", "b"], ways={"a": "env", "b": "file"})),
        "ways as lists": (_MALFORMED, _resolve(names=["a", "b"], ways=[["env"], ["file"]])),
        "a name twice in two ways": (_MALFORMED, _resolve(names=["a", "a"], ways=["env", "file"])),
        "subject without a token": (_MALFORMED, _resolve(subject={"proof": "g.h.i"})),
        "subject's agent of 65 characters": (_MALFORMED, _resolve(subject={"token": "d.e.f", "agent": "a" * 65})),
        "subject's run of no characters": (_MALFORMED, _resolve(subject={"token": "d.e.f", "run": ""})),
        "subject's run before its agent": (
            _NOT_CANONICAL,
            _resolve(subject={"token": "d.e.f", "run": "run-1", "agent": "claude"}),
        ),
        "subject as text": (_MALFORMED, _resolve(subject="d.e.f")),
        "subject with a token of 4097 characters": (_MALFORMED, _resolve(subject={"token": "t" * 4097})),
        "subject with a proof of 2049 characters": (_MALFORMED, _resolve(subject={"token": "t", "proof": "p" * 2049})),
        "report no call": (_MALFORMED, _report()),
        "report 65 calls": (_MALFORMED, _report(*[_CALL] * 65)),
        "report without a subject": (_MALFORMED, _request({"op": "report", "calls": [_CALL]})),
        "report a call of a name that is not canonical": (_BAD_NAME, _report({**_CALL, "name": "OpenAI"})),
        "report a call with a status of 99": (_MALFORMED, _report({**_CALL, "status": 99})),
        "report a call with its query": (_MALFORMED, _report({**_CALL, "query": "a=b"})),
        "ttl of zero": (_MALFORMED, _resolve(ttl=0)),
        "ttl beyond 30 days": (_MALFORMED, _resolve(ttl=2_592_001)),
        "lease of nothing but its id": (_MALFORMED, _request({"op": "renew", "lease": _LEASE_ID})),
        "lease of 513 bytes": (_MALFORMED, _request({"op": "renew", "lease": bytes(513)})),
        "lease as text": (_MALFORMED, _request({"op": "release", "lease": "0123456789abcdef0"})),
        "release without a lease": (_MALFORMED, _request({"op": "release"})),
        "lease id in place of a lease": (_MALFORMED, _request({"op": "renew", "lease_id": _LEASE_ID})),
        "default spelled out": (_NOT_CANONICAL, _resolve(purpose="")),
        "absent value spelled out": (_NOT_CANONICAL, _resolve(ttl=None)),
        "whole number as a float": (_MALFORMED, _request(issued_at=float(NOW))),
        "fields in another order": (_NOT_CANONICAL, dict(reversed(_request().items()))),
    }


def _encoding_faults() -> dict[str, tuple[str, bytes]]:
    raw, deep = pack(_request()), b"\x91" * 1000
    with_ttl = pack(_resolve(ttl=60))
    without_token = {key: value for key, value in _request().items() if key != "token"}
    return {
        "nothing": (_MALFORMED, b""),
        "nil": (_MALFORMED, b"\xc0"),
        "text": (_MALFORMED, pack("request")),
        "a list of the same values": (_MALFORMED, pack(list(_request().values()))),
        "unused byte 0xc1": (_MALFORMED, b"\xc1"),
        "token missing": (_MALFORMED, pack(without_token)),
        "last byte missing": (_MALFORMED, raw[:-1]),
        "one byte more": (_MALFORMED, raw + b"\x00"),
        "twice": (_MALFORMED, raw + raw),
        "field twice": (_NOT_CANONICAL, b"\x86" + raw[1:] + pack("token") + pack("a.b.c")),
        "map of 5 as map16": (_NOT_CANONICAL, b"\xde\x00\x05" + raw[1:]),
        "ttl as uint16": (_NOT_CANONICAL, with_ttl[:-1] + b"\xcd\x00\x3c"),
        "ttl as int8": (_NOT_CANONICAL, with_ttl[:-1] + b"\xd0\x3c"),
        "request id as bin16": (_NOT_CANONICAL, raw.replace(b"\xc4\x10" + _ID, b"\xc5\x00\x10" + _ID)),
        "token as str8": (_NOT_CANONICAL, raw.replace(b"\xa5a.b.c", b"\xd9\x05a.b.c")),
        "names as array16": (_NOT_CANONICAL, raw.replace(b"\x91\xaeopenai", b"\xdc\x00\x01\xaeopenai")),
        "token that is not UTF-8": (_MALFORMED, raw.replace(b"\xa5a.b.c", b"\xa5a.\xff.c")),
        "token with a UTF-8 surrogate": (_MALFORMED, raw.replace(b"\xa5a.b.c", b"\xa5a.\xed\xa0\x80")),
        "over-long UTF-8": (_MALFORMED, raw.replace(b"\xa5a.b.c", b"\xa5a.\xc0\xaec")),
        "timestamp extension for a time": (_MALFORMED, raw.replace(b"issued_at\xcf", b"issued_at\xd7\xff")),
        "field name as a number": (_MALFORMED, raw.replace(b"\xa5token", b"\x05", 1)),
        "field name as bytes": (_MALFORMED, raw.replace(b"\xa5token", b"\xc4\x05token", 1)),
        "1,000 lists in one another": (_MALFORMED, deep + b"\xc0"),
        "1,000 lists in an unknown field": (_MALFORMED, b"\x86" + raw[1:] + pack("x") + deep + b"\xc0"),
        "100,000 lists as the body": (_MALFORMED, raw[: raw.index(b"\xa4body") + 5] + b"\x91" * 100_000 + b"\xc0"),
        "100,000 lists before the op": (
            _MALFORMED,
            raw[: raw.index(b"\xa4body") + 5] + b"\x82" + pack("names") + b"\x91" * 100_000 + b"\xc0",
        ),
        "map of 2^32-1 fields announced": (_MALFORMED, b"\xdf\xff\xff\xff\xff"),
        "list of 2^32-1 names announced": (
            _MALFORMED,
            raw.replace(b"\x91\xaeopenai", b"\xdd\xff\xff\xff\xff\xaeopenai"),
        ),
        "request id of 2^32-1 bytes announced": (_MALFORMED, raw.replace(b"\xc4\x10" + _ID, b"\xc6\xff\xff\xff\xff")),
        "token of 2^32-1 bytes announced": (_MALFORMED, raw.replace(b"\xa5a.b.c", b"\xdb\xff\xff\xff\xffa.b.c")),
        "one byte over the largest plaintext": (_TOO_LARGE, bytes(_MAX_PLAINTEXT + 1)),
    }


_CODES = [
    "denied",
    "unauthenticated",
    "expired",
    "revoked",
    "rate_limited",
    "approval_pending",
    "approval_denied",
    "approval_expired",
    "unavailable",
    "audit_unavailable",
    "conflict",
    "invalid",
    "too_large",
]
_GRANTED = {
    "name": "openai.api_key",
    "outcome": "granted",
    "value": b"made-up value",
    "expires_at": NOW + 300_000,
    "lease": _LEASE,
    "source": "cache",
    "version": "7",
}


def _reply(**more: object) -> dict[str, Any]:
    return {"request_id": _ID, "status": "ok", **more}


def _result(**more: object) -> dict[str, Any]:
    return _reply(results=[{**_GRANTED, **more}])


def _reply_cases() -> list[Case]:
    denied = {"name": "github.token", "outcome": "refused", "code": "denied"}
    limited = {"name": "github.token", "outcome": "refused", "code": "rate_limited", "retry_after": 1500}
    waiting = {"name": "db.root", "outcome": "refused", "code": "approval_pending", "approval": _APPROVAL}
    good: dict[str, dict[str, Any]] = {
        "granted, all fields": _result(age_s=12),
        "granted from the cache": _result(),
        "granted past its time, as the vault fails": _result(source="stale", age_s=86_400),
        "granted under the longest lease": _result(lease=_LEASE_ID + bytes(496)),
        "granted, fewest fields": _reply(results=[{"name": "a", "outcome": "granted", "value": b""}]),
        "granted from the provider": _result(source="provider"),
        "partial": _reply(status="partial", results=[_GRANTED, denied]),
        "refused name with a time to come back": _reply(status="refused", results=[limited]),
        "refused name that waits for a person": _reply(status="refused", results=[waiting]),
        "refused as a whole with a time to come back": _reply(status="refused", code="rate_limited", retry_after=250),
        "list": _reply(names=["github.token", "openai.api_key"], ways=[["proxy"], ["value", "env", "file", "proxy"]]),
        "list of nothing": _reply(),
        **{f"refused with {code}": _reply(status="refused", code=code) for code in _CODES},
    }
    bad: dict[str, tuple[str, dict[str, Any]]] = {
        "unknown code": (_MALFORMED, _reply(status="refused", code="because")),
        "unknown status": (_MALFORMED, _reply(status="fine")),
        "unknown outcome": (_MALFORMED, _result(outcome="maybe")),
        "unknown source": (_MALFORMED, _result(source="file")),
        "negative age": (_MALFORMED, _result(age_s=-1)),
        "age before the source": (
            _NOT_CANONICAL,
            _reply(results=[{"name": "a", "outcome": "granted", "age_s": 1, "source": "cache"}]),
        ),
        "unknown field of a reply": (_MALFORMED, _reply(reason="no grant")),
        "unknown field of a result": (_MALFORMED, _result(rule="policy.yaml:3")),
        "status missing": (_MALFORMED, {"request_id": _ID}),
        "65 results": (_MALFORMED, _reply(results=[{"name": f"n{i}", "outcome": "granted"} for i in range(65)])),
        "1025 names": (_MALFORMED, _reply(names=["n"] * 1025)),
        "1025 names' ways": (_MALFORMED, _reply(names=["n"], ways=[["env"]] * 1025)),
        "a listed name that goes no way": (_MALFORMED, _reply(names=["n"], ways=[[]])),
        "a listed name that goes five ways": (_MALFORMED, _reply(names=["n"], ways=[["env"] * 5])),
        "a listed name that goes an unknown way": (_MALFORMED, _reply(names=["n"], ways=[["mail"]])),
        "a listed name's two ways as one": (_MALFORMED, _reply(names=["n"], ways=[["env,file"]])),
        "value of 128 KiB and a byte": (_MALFORMED, _result(value=bytes(131_073))),
        "version of 129 characters": (_MALFORMED, _result(version="v" * 129)),
        "lease of nothing but its id in a result": (_MALFORMED, _result(lease=_LEASE_ID)),
        "lease of 513 bytes in a result": (_MALFORMED, _result(lease=bytes(513))),
        "lease id in a result": (_MALFORMED, _result(lease_id=_LEASE_ID)),
        "approval of 7 bytes": (_MALFORMED, _reply(results=[{**waiting, "approval": _APPROVAL[:7]}])),
        "approval of 9 bytes": (_MALFORMED, _reply(results=[{**waiting, "approval": _APPROVAL + b"x"}])),
        "approval as text": (_MALFORMED, _reply(results=[{**waiting, "approval": "01234567"}])),
        "results spelled out though empty": (_NOT_CANONICAL, _reply(results=[])),
        "results nil": (_MALFORMED, _reply(results=None)),
        "result in another order": (_NOT_CANONICAL, _reply(results=[dict(reversed(_GRANTED.items()))])),
    }
    cases = [_ok("reply", name, fields) for name, fields in good.items()]
    return cases + [_bad("reply", name, expect, fields) for name, (expect, fields) in bad.items()]


def _notice_cases() -> list[Case]:
    good: dict[str, dict[str, Any]] = {
        "lease revoked": {"event": "lease_revoked", "at": NOW, "name": "github.token", "lease_id": _LEASE_ID},
        "secret rotated": {"event": "secret_rotated", "at": NOW, "name": "github.token"},
        "run revoked": {"event": "run_revoked", "at": NOW},
        "approval settled": {"event": "approval_settled", "at": NOW, "approval": _APPROVAL},
    }
    bad: dict[str, dict[str, Any]] = {
        "unknown event": {"event": "all_is_well", "at": NOW},
        "notice without a time": {"event": "run_revoked"},
        "notice with a value": {"event": "secret_rotated", "at": NOW, "value": b"v"},
        "notice with a lease id of 17 bytes": {"event": "lease_revoked", "at": NOW, "lease_id": _LEASE_ID + b"x"},
        "notice with a whole lease": {"event": "lease_revoked", "at": NOW, "lease": _LEASE},
        "notice with an approval of 7 bytes": {"event": "approval_settled", "at": NOW, "approval": _APPROVAL[:7]},
        "notice with the request that waited": {"event": "approval_settled", "at": NOW, "request_id": _ID},
        "notice of an approval that still waits": {"event": "approval_pending", "at": NOW, "approval": _APPROVAL},
    }
    cases = [_ok("notice", name, fields) for name, fields in good.items()]
    return cases + [_bad("notice", name, _MALFORMED, fields) for name, fields in bad.items()]


def message_cases() -> list[Case]:
    """Requests, replies and notices: bytes and the fields that they stand for."""
    cases = [_ok("request", name, fields) for name, fields in _REQUESTS_OK.items()]
    cases += [_bad("request", name, expect, fields) for name, (expect, fields) in _field_faults().items()]
    cases += [_bad("request", name, expect, raw) for name, (expect, raw) in _encoding_faults().items()]
    return cases + _reply_cases() + _notice_cases()


def padding_cases() -> list[Case]:
    """Plaintexts and their padded form."""
    texts = {
        "nothing": b"",
        "one byte": b"a",
        "255 bytes, the most that fit one block": b"a" * 255,
        "256 bytes, the fewest that need two": b"a" * 256,
        "ends in zeros": b"a\x00\x00",
        "ends like padding": b"a\x80\x00\x00",
    }
    bad = {
        "no bytes at all": b"",
        "only zeros": bytes(256),
        "no marker": b"a" * 256,
        "not a multiple of 256": b"a\x80",
        "a block too many": b"a\x80" + bytes(510),
        "marker and something else behind it": b"a\x80\x01" + bytes(253),
    }
    cases = [case(name, "ok", plaintext=text, padded=padded(text)) for name, text in texts.items()]
    return cases + [case(name, _MALFORMED, padded=raw) for name, raw in bad.items()]
