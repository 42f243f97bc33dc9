"""Cases of keys.json, envelopes.json and certificates.json."""

from wire_reference import (
    NOTICE,
    NOW,
    REPLY,
    REQUEST,
    Case,
    case,
    certificate,
    direction_key,
    envelope,
    exchange_of_run,
    exchange_pair,
    fingerprint,
    intake_id,
    keypair,
    nonce,
    pack,
    seed,
    signature,
)

_MALFORMED, _NOT_CANONICAL = "invalid/malformed", "invalid/not_canonical"
_CANNOT_OPEN = "unauthenticated/cannot_open"
_RUN, _ = keypair("run a")
_RUN_X, _RUN_SECRET = exchange_of_run("run a")
_INTAKE, _INTAKE_SECRET = exchange_pair("intake")
_SESSION, _SESSION_SECRET = exchange_pair("session")
_IDENTITY, _IDENTITY_SECRET = keypair("broker identity")
_HOUR = 3_600_000
_CERTIFICATE = certificate("broker identity", _SESSION, NOW - _HOUR, NOW + _HOUR, "worker-1")
_LOW_ORDER = {
    "zero": bytes(32),
    "one": b"\x01" + bytes(31),
    "order 8": bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    "order 8, the other": bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    "p - 1": bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "p": bytes.fromhex("edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
    "p + 1": bytes.fromhex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
}


def _key(kind: int) -> bytes:
    if kind == REQUEST:
        return direction_key(kind, _INTAKE_SECRET, _RUN_X, _RUN_X, _INTAKE)
    return direction_key(kind, _RUN_SECRET, _SESSION, _SESSION, _RUN_X)


def key_cases() -> list[Case]:
    """From seeds to the keys of each direction, and the keys that must be refused."""
    request = {"sender": _RUN_X, "recipient": _INTAKE}
    reply = {"sender": _SESSION, "recipient": _RUN_X}
    bad_run = "unauthenticated/bad_run_key"
    bad_points = {
        "32 zeros": bytes(32),
        "the neutral point": b"\x01" + bytes(31),
        "a point of order 2": bytes.fromhex("ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f"),
        "a point of order 8": bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
        "no point of the curve": b"\x02" + bytes(31),
        "31 bytes": _RUN[:31],
        "33 bytes": _RUN + b"\x00",
    }
    return [
        case(
            "run key",
            "ok",
            function="run",
            seed=seed("run a"),
            run_public_key=_RUN,
            exchange_public=_RUN_X,
            exchange_secret=_RUN_SECRET,
            fingerprint=fingerprint(_RUN),
        ),
        case("intake key", "ok", function="key_id", public=_INTAKE, key_id=intake_id(_INTAKE)),
        *(
            case(
                f"{name} key as the {side} derives it",
                "ok",
                function="derive",
                kind=kind,
                secret=secret,
                peer=peer,
                key=_key(kind),
                **ends,
            )
            for name, kind, ends, sides in (
                ("request", REQUEST, request, (("run", _RUN_SECRET, _INTAKE), ("broker", _INTAKE_SECRET, _RUN_X))),
                ("reply", REPLY, reply, (("run", _RUN_SECRET, _SESSION), ("worker", _SESSION_SECRET, _RUN_X))),
                ("notice", NOTICE, reply, (("run", _RUN_SECRET, _SESSION), ("worker", _SESSION_SECRET, _RUN_X))),
            )
            for side, secret, peer in sides
        ),
        *(
            case(
                f"exchange key of low order: {name}",
                "invalid/bad_run_key",
                function="derive",
                kind=REQUEST,
                secret=_INTAKE_SECRET,
                peer=point,
                sender=point,
                recipient=_INTAKE,
            )
            for name, point in _LOW_ORDER.items()
        ),
        *(
            case(
                f"{name} of {len(short)} bytes",
                "invalid/bad_run_key",
                function="derive",
                **{"kind": REQUEST, "secret": _INTAKE_SECRET, "peer": _RUN_X, **request, name: short},
            )
            for name in ("secret", "peer", "sender", "recipient")
            for short in (b"", bytes(31), bytes(33))
        ),
        *(case(f"run key that is {n}", bad_run, function="exchange", run_public_key=p) for n, p in bad_points.items()),
    ]


def _place(kind: int) -> str:
    return "sb:req:{claude}" if kind == REQUEST else f"sb:rep:{{claude}}:{fingerprint(_RUN)}"


def _sealed(kind: int, text: bytes, *, pad: bool = True) -> bytes:
    name = intake_id(_INTAKE) if kind == REQUEST else _CERTIFICATE
    return envelope(kind, _key(kind), name, _RUN, nonce(f"{kind}"), _place(kind), text, pad=pad)


def _opening(name: str, expect: str, raw: bytes, kind: int = REQUEST, comment: str = "", **more: object) -> Case:
    return case(name, expect, comment, **{"key": _key(kind), "key_name": _place(kind), "bytes": raw, **more})


def _opening_cases() -> list[Case]:
    request, reply = _sealed(REQUEST, b"question"), _sealed(REPLY, b"answer")
    texts = {"of nothing": b"", "of 255 bytes": b"a" * 255, "of 256 bytes": b"a" * 256}

    def changed(place: int) -> bytes:
        return request[:place] + bytes([request[place] ^ 1]) + request[place + 1 :]

    return [
        _opening("request", "ok", request, kind_of=REQUEST, plaintext=b"question"),
        _opening("reply", "ok", reply, REPLY, kind_of=REPLY, plaintext=b"answer"),
        _opening("notice", "ok", _sealed(NOTICE, b"news"), NOTICE, kind_of=NOTICE, plaintext=b"news"),
        *(_opening(f"request {n}", "ok", _sealed(REQUEST, t), kind_of=REQUEST, plaintext=t) for n, t in texts.items()),
        _opening("moved to another agent's stream", _CANNOT_OPEN, request, key_name="sb:req:{codex}"),
        _opening("moved to a reply stream", _CANNOT_OPEN, request, key_name=_place(REPLY)),
        _opening(
            "reply moved to another run's stream",
            _CANNOT_OPEN,
            reply,
            REPLY,
            key_name=f"sb:rep:{{claude}}:{fingerprint(keypair('run b')[0])}",
        ),
        _opening("reply key for a request", _CANNOT_OPEN, request, key=_key(REPLY)),
        _opening("notice key for a reply", _CANNOT_OPEN, reply, REPLY, key=_key(NOTICE)),
        _opening("key of 31 bytes", _CANNOT_OPEN, request, key=_key(REQUEST)[:31]),
        _opening("another intake key's name", _CANNOT_OPEN, changed(5)),
        _opening("kind changed", _CANNOT_OPEN, request[:2] + b"\x03" + request[3:]),
        _opening("nonce changed", _CANNOT_OPEN, changed(50)),
        _opening("first byte of the ciphertext changed", _CANNOT_OPEN, changed(76)),
        _opening("last byte of the tag changed", _CANNOT_OPEN, changed(len(request) - 1)),
        _opening(
            "sign bit of the run key changed",
            _CANNOT_OPEN,
            request[:46] + bytes([request[46] ^ 0x80]) + request[47:],
            comment="K and -K have one X25519 form and so one AEAD key; the header keeps them apart",
        ),
        _opening("sealed without padding", _MALFORMED, _sealed(REQUEST, b"question", pad=False)),
        _opening("sealed nothing at all", _MALFORMED, _sealed(REQUEST, b"", pad=False)),
        _opening("sealed with zeros for padding", _MALFORMED, _sealed(REQUEST, bytes(256), pad=False)),
        _opening("sealed with a block too many", _MALFORMED, _sealed(REQUEST, b"a\x80" + bytes(510), pad=False)),
    ]


def _parsing_cases() -> list[Case]:
    fields: list[object] = [1, REQUEST, bytes(8), _RUN, nonce("parse"), bytes(272)]
    raw = pack(fields)

    def with_field(place: int, value: object) -> bytes:
        return pack([*fields[:place], value, *fields[place + 1 :]])

    faults: dict[str, tuple[str, bytes]] = {
        "nothing": (_MALFORMED, b""),
        "version 0": (_MALFORMED, with_field(0, 0)),
        "version 2": (_MALFORMED, with_field(0, 2)),
        "version as text": (_MALFORMED, with_field(0, "1")),
        "kind 0": (_MALFORMED, with_field(1, 0)),
        "kind 4": (_MALFORMED, with_field(1, 4)),
        "key id of 7 bytes": (_MALFORMED, with_field(2, bytes(7))),
        "key id of 513 bytes": (_MALFORMED, with_field(2, bytes(513))),
        "run key of 31 bytes": (_MALFORMED, with_field(3, bytes(31))),
        "run key of 33 bytes": (_MALFORMED, with_field(3, bytes(33))),
        "run key as text": (_MALFORMED, with_field(3, "x" * 32)),
        "nonce of 23 bytes": (_MALFORMED, with_field(4, bytes(23))),
        "nonce of 25 bytes": (_MALFORMED, with_field(4, bytes(25))),
        "ciphertext of 15 bytes": (_MALFORMED, with_field(5, bytes(15))),
        "ciphertext larger than any": (_MALFORMED, with_field(5, bytes(258_065))),
        "ciphertext nil": (_MALFORMED, with_field(5, None)),
        "five fields": (_MALFORMED, pack(fields[:5])),
        "seven fields": (_MALFORMED, pack([*fields, 0])),
        "a map": (_MALFORMED, pack({"version": 1})),
        "last byte missing": (_MALFORMED, raw[:-1]),
        "one byte more": (_MALFORMED, raw + b"\x00"),
        "array16 header": (_NOT_CANONICAL, b"\xdc\x00\x06" + raw[1:]),
        "version as uint8": (_NOT_CANONICAL, b"\x96\xcc\x01" + raw[2:]),
        "nonce as bin16": (_NOT_CANONICAL, raw.replace(b"\xc4\x18", b"\xc5\x00\x18")),
        "ciphertext as bin32": (_NOT_CANONICAL, raw.replace(b"\xc5\x01\x10", b"\xc6\x00\x00\x01\x10")),
        "ciphertext of 2^32-1 bytes announced": (_MALFORMED, raw.replace(b"\xc5\x01\x10", b"\xc6\xff\xff\xff\xff")),
        "2^32-1 fields announced": (_MALFORMED, b"\xdd\xff\xff\xff\xff"),
        "100,000 lists in one another": (_MALFORMED, b"\x91" * 100_000),
        "256 KiB and a byte": ("too_large/too_large", bytes(262_145)),
    }
    return [case(name, expect, bytes=raw) for name, (expect, raw) in faults.items()]


def envelope_cases() -> list[Case]:
    """Envelopes that open, that parse but do not open (they have a key), and that do not parse."""
    return _opening_cases() + _parsing_cases()


def certificate_cases() -> list[Case]:
    """Session certificates and the moment at which they are looked at."""
    bad = "unauthenticated/bad_certificate"
    unsigned: list[object] = [_SESSION, NOW - _HOUR, NOW + _HOUR, "worker-1"]
    genuine = signature(_IDENTITY_SECRET, b"secret-broker session certificate v1\x00" + pack([*unsigned, bytes(64)]))

    def look(name: str, expect: str, raw: bytes = _CERTIFICATE, **more: object) -> Case:
        return case(name, expect, **{"identity": _IDENTITY, "now": NOW, "skew": 0, "bytes": raw, **more})

    def forged(place: int, value: object) -> bytes:
        return pack([*unsigned[:place], value, *unsigned[place + 1 :], genuine])

    fields = {"session_public_key": _SESSION, "not_before": NOW - _HOUR, "not_after": NOW + _HOUR}
    return [
        look("in its validity", "ok", fields={**fields, "worker_id": "worker-1"}),
        look("at its first moment", "ok", now=NOW - _HOUR),
        look("at its last moment", "ok", now=NOW + _HOUR),
        look("a millisecond early", "expired/bad_certificate", now=NOW - _HOUR - 1),
        look("a millisecond late", "expired/bad_certificate", now=NOW + _HOUR + 1),
        look("late within the skew", "ok", now=NOW + _HOUR + 5000, skew=5000),
        look("late beyond the skew", "expired/bad_certificate", now=NOW + _HOUR + 5001, skew=5000),
        look("longest worker id", "ok", certificate("broker identity", _SESSION, 0, NOW, "\U0001f511" * 96)),
        look("of another identity", bad, certificate("another broker", _SESSION, 0, NOW + _HOUR, "worker-1")),
        look("looked at by another's pin", bad, identity=keypair("another broker")[0]),
        look("pin of 31 bytes", bad, identity=_IDENTITY[:31]),
        look("pin of no bytes", bad, identity=b""),
        look("session key changed", bad, forged(0, _INTAKE)),
        look("validity made longer", bad, forged(2, NOW + 2 * _HOUR)),
        look("worker id changed", bad, forged(3, "worker-2")),
        look("signature of zeros", bad, pack([*unsigned, bytes(64)])),
        look(
            "signed without the tag",
            bad,
            certificate("broker identity", _SESSION, NOW - _HOUR, NOW + _HOUR, "worker-1", tag=b""),
        ),
        look("signature of 63 bytes", _MALFORMED, pack([*unsigned, bytes(63)])),
        look("empty worker id", _MALFORMED, pack([*unsigned[:3], "", bytes(64)])),
        look("worker id of 97 characters", _MALFORMED, pack([*unsigned[:3], "w" * 97, bytes(64)])),
        look("session key of 31 bytes", _MALFORMED, pack([bytes(31), *unsigned[1:], bytes(64)])),
        look("one byte more", _MALFORMED, _CERTIFICATE + b"\x00"),
        look("array16 header", _NOT_CANONICAL, b"\xdc\x00\x05" + _CERTIFICATE[1:]),
        look("nothing", _MALFORMED, b""),
        look("513 bytes", "too_large/too_large", bytes(513)),
    ]
