"""The vector files of tests/vectors, case by case, against the implementation."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]  # it ships no types
import msgspec
import pytest

from agent_sdk.wire import (
    audit,
    audit_stream,
    certificate,
    codec,
    keynames,
    messages,
    names,
    proof,
    sealing,
    static_tokens,
)
from agent_sdk.wire.audit_chain import ChainVerifier
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.tokens import RunIdentity, TokenVerifier, TrustAnchor

FOLDER = Path(__file__).parents[1] / "vectors"
COUNTS = {
    "audit.json": 98,
    "certificates.json": 25,
    "envelopes.json": 51,
    "keynames.json": 19,
    "keys.json": 34,
    "messages.json": 211,
    "names.json": 49,
    "padding.json": 12,
    "patterns.json": 22,
    "proofs.json": 66,
    "static_tokens.json": 17,
    "tokens.json": 119,
}
Case = dict[str, Any]


def _live(value: Any) -> Any:
    """A vector's value with its byte strings as bytes."""
    if isinstance(value, dict):
        if set(value) == {"hex"}:
            return bytes.fromhex(value["hex"])
        if set(value) == {"runs"}:
            return b"".join(bytes.fromhex(text) * times for text, times in value["runs"])
        return {key: _live(item) for key, item in value.items()}
    return [_live(item) for item in value] if isinstance(value, list) else value


def _file(name: str) -> dict[str, Any]:
    content = _live(json.loads((FOLDER / name).read_text(encoding="utf-8")))
    assert isinstance(content, dict)
    return content


def _cases(file: str, **having: object) -> list[Any]:
    cases = [c for c in _file(file)["cases"] if all(c.get(key) == value for key, value in having.items())]
    return [pytest.param(case, id=case["name"].replace(" ", "-")) for case in cases]


def _outcome(action: Callable[[], object]) -> str:
    try:
        action()
    except WireError as error:
        return f"{error.code}/{error.reason}"
    return "ok"


@pytest.mark.parametrize("file", COUNTS)
def test_a_vector_file_has_every_one_of_its_cases(file: str) -> None:
    """A file that lost cases, or was never read, does not pass as green."""
    cases = _file(file)["cases"]
    assert len(cases) == COUNTS[file]
    assert {"ok"} < {case["expect"] for case in cases}


def test_every_vector_file_is_known() -> None:
    """A file that nobody runs does not lie around."""
    assert {path.name for path in FOLDER.glob("*.json")} == set(COUNTS)


def test_the_files_are_what_the_script_makes() -> None:
    """The vectors come from the committed script and from nothing else."""
    made = subprocess.run(
        [sys.executable, FOLDER / "make_vectors.py", "--check"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (made.returncode, made.stdout, made.stderr) == (0, "", "")


_CHECKS = {"secret_name": names.check_secret_name, "agent_id": names.check_agent_id, "run_id": names.check_run_id}


@pytest.mark.parametrize("case", _cases("names.json"))
def test_name(case: Case) -> None:
    """A name is accepted as written or refused."""
    check = _CHECKS[case["kind"]]
    assert _outcome(lambda: check(case["text"])) == case["expect"]


@pytest.mark.parametrize("case", _cases("patterns.json"))
def test_pattern(case: Case) -> None:
    """A pattern covers the names that it should, and no others."""
    assert _outcome(lambda: names.NamePattern(case["text"])) == case["expect"]
    if case["expect"] == "ok":
        pattern = names.NamePattern(case["text"])
        assert [name for name in case["matches"] if not pattern.matches(name)] == []
        assert [name for name in case["does_not_match"] if pattern.matches(name)] == []


@pytest.mark.parametrize("case", _cases("keynames.json"))
def test_key_name(case: Case) -> None:
    """Keys and channels have the names that every SDK must use."""
    function = getattr(keynames, case["function"])
    assert _outcome(lambda: function(*case["arguments"])) == case["expect"]
    if case["expect"] == "ok":
        assert function(*case["arguments"]) == case["value"]


_DECODERS: dict[str, Callable[[bytes], object]] = {
    "request": messages.decode_request,
    "reply": messages.REPLY.decode,
    "notice": messages.NOTICE.decode,
}


@pytest.mark.parametrize("case", _cases("messages.json"))
def test_message(case: Case) -> None:
    """A message decodes to its fields, or is refused with its code and reason."""
    decode = _DECODERS[case["type"]]
    assert _outcome(lambda: decode(case["bytes"])) == case["expect"]
    if case["expect"] == "ok":
        assert msgspec.to_builtins(decode(case["bytes"]), builtin_types=(bytes,)) == _as_decoded(case["fields"])


def _as_decoded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _as_decoded(item) for key, item in value.items()}
    return tuple(_as_decoded(item) for item in value) if isinstance(value, list) else value


@pytest.mark.parametrize("case", _cases("messages.json", expect="ok"))
def test_message_has_the_bytes_of_msgpack(case: Case) -> None:
    """msgspec writes the very bytes that the msgpack package writes for the same fields."""
    value = _DECODERS[case["type"]](case["bytes"])
    assert msgspec.msgpack.encode(value) == case["bytes"]
    assert msgpack.packb(case["fields"], use_bin_type=True) == case["bytes"]


@pytest.mark.parametrize("case", _cases("padding.json"))
def test_padding(case: Case) -> None:
    """Padding is taken off only where it is exactly what padding would make."""
    assert _outcome(lambda: codec.unpad(case["padded"])) == case["expect"]
    if case["expect"] == "ok":
        assert codec.pad(case["plaintext"]) == case["padded"]
        assert codec.unpad(case["padded"]) == case["plaintext"]


def _derive(case: Case) -> bytes:
    return sealing.derive_key(
        sealing.Kind(case["kind"]), case["secret"], case["sender"], case["recipient"], case["peer"]
    )


@pytest.mark.parametrize("case", _cases("keys.json", function="run"))
def test_keys_of_a_run(case: Case) -> None:
    """All keys of a run follow from its seed."""
    public = sealing.run_public_key(case["seed"])
    assert public == case["run_public_key"]
    assert sealing.run_exchange_public(public) == case["exchange_public"]
    assert sealing.run_exchange_secret(case["seed"]) == case["exchange_secret"]
    assert keynames.fingerprint(public) == case["fingerprint"]


@pytest.mark.parametrize("case", _cases("keys.json", function="key_id"))
def test_name_of_an_intake_key(case: Case) -> None:
    """An intake key's name follows from its public half."""
    assert sealing.key_id(case["public"]) == case["key_id"]


@pytest.mark.parametrize("case", _cases("keys.json", function="derive"))
def test_key_of_a_direction(case: Case) -> None:
    """Both sides derive one key a direction; keys of low order or of the wrong length are refused."""
    assert _outcome(lambda: _derive(case)) == case["expect"]
    if case["expect"] == "ok":
        assert _derive(case) == case["key"]


@pytest.mark.parametrize("case", _cases("keys.json", function="exchange"))
def test_exchange_form_of_a_bad_run_key(case: Case) -> None:
    """A run key that is no point of the prime-order group is refused."""
    assert _outcome(lambda: sealing.run_exchange_public(case["run_public_key"])) == case["expect"]


@pytest.mark.parametrize("case", _cases("envelopes.json"))
def test_envelope(case: Case) -> None:
    """An envelope opens to its plaintext, or is refused with its code and reason."""
    assert _outcome(lambda: _open(case)) == case["expect"]
    if case["expect"] == "ok":
        envelope, plaintext = _open(case)
        assert plaintext == case["plaintext"]
        assert envelope.kind == case["kind_of"]


def _open(case: Case) -> tuple[sealing.Envelope, bytes]:
    envelope = sealing.parse_envelope(case["bytes"])
    return envelope, sealing.open_envelope(case["key"], case["bytes"], envelope, case["key_name"])


@pytest.mark.parametrize("case", _cases("envelopes.json", expect="ok"))
def test_envelope_is_sealed_to_the_same_bytes(case: Case) -> None:
    """The sealer writes the very envelope that another SDK would."""
    envelope, plaintext = _open(case)
    kind = sealing.Kind(envelope.kind)
    sealer = sealing.Sealer(kind, case["key"], envelope.key_id, envelope.run_public_key, case["key_name"])
    assert sealer.seal(plaintext, envelope.nonce) == case["bytes"]


@pytest.mark.parametrize("case", _cases("certificates.json"))
def test_certificate(case: Case) -> None:
    """A certificate counts under the pinned identity and inside its validity only."""

    def verify() -> certificate.SessionCertificate:
        return certificate.verify_certificate(case["bytes"], case["identity"], case["now"], case["skew"])

    assert _outcome(verify) == case["expect"]
    for name, value in case.get("fields", {}).items():
        assert getattr(verify(), name) == value


@pytest.fixture(scope="module")
def anchors() -> list[TrustAnchor]:
    """The issuers of tokens.json."""
    listed = _file("tokens.json")["anchors"]
    return [TrustAnchor(**{**anchor, "agents": frozenset(anchor["agents"])}) for anchor in listed]


@pytest.mark.parametrize("case", _cases("tokens.json"))
def test_token(case: Case, anchors: list[TrustAnchor]) -> None:
    """A token states an identity, or is refused with its code."""
    verifier = TokenVerifier(anchors, skew=case["skew"])
    assert _outcome(lambda: verifier.verify(case["token"], case["now"])) == case["expect"]
    if "identity" in case:
        assert _fields(verifier.verify(case["token"], case["now"])) == case["identity"]


def _fields(identity: RunIdentity) -> dict[str, object]:
    fields = {name: getattr(identity, name) for name in RunIdentity.__slots__}
    return {**fields, "scope": None if identity.scope is None else [pattern.text for pattern in identity.scope]}


@pytest.mark.parametrize("case", _cases("proofs.json"))
def test_proof(case: Case) -> None:
    """A proof counts for its token, its key, its audience and its minutes, or is refused with its code."""

    def verify() -> proof.ProofClaims:
        key, audiences = case["run_public_key"], case["audiences"]
        return proof.verify_proof(case["proof"], case["token"], key, audiences, case["now"], case["skew"])

    assert _outcome(verify) == case["expect"]
    for name, value in case.get("claims", {}).items():
        assert getattr(verify(), name) == value


@pytest.mark.parametrize("case", _cases("static_tokens.json"))
def test_static_token(case: Case) -> None:
    """A static token is what its random bytes make, and no other text is one."""
    assert _outcome(lambda: static_tokens.parse(case["text"])) == case["expect"]
    if case["expect"] == "ok":
        record = static_tokens.TokenRecord(case["token_id"], case["digest"])
        assert static_tokens.mint(case["entropy"]) == (case["text"], record)
        assert static_tokens.parse(case["text"]) == record


@pytest.mark.parametrize("case", _cases("audit.json", kind="line"))
def test_audit_line(case: Case) -> None:
    """An audit line is read back to the same bytes, or refused."""
    line = case["line"].encode() if isinstance(case["line"], str) else case["line"]
    assert _outcome(lambda: audit.decode_line(line)) == case["expect"]
    if case["expect"] == "ok":
        assert msgspec.json.encode(audit.decode_line(line)) == line


@pytest.mark.parametrize("case", _cases("audit.json", kind="entry"))
def test_audit_entry(case: Case) -> None:
    """An entry of the audit stream unpacks and packs to the same fields, or is refused."""
    fields = {name.encode(): v.encode() if isinstance(v, str) else v for name, v in case["fields"].items()}
    assert _outcome(lambda: audit_stream.unpack_segment(fields)) == case["expect"]
    if case["expect"] == "ok":
        assert audit_stream.pack_segment(audit_stream.unpack_segment(fields)) == fields


@pytest.mark.parametrize("case", _cases("audit.json", kind="chain"))
def test_audit_chain(case: Case) -> None:
    """A chain verifies as a whole, or the first fault that is found is the one expected."""
    verifier = ChainVerifier(case["identity"], case["chain"], case["worker"], prev=audit.GENESIS)
    lines = [line.encode() for line in case["lines"]]
    findings = [finding for number, line in enumerate(lines, 1) for finding in verifier.feed(line, "log", number)]
    findings += verifier.finish()
    assert next((finding.fault.value for finding in findings), "ok") == case["expect"]
    if case["expect"] == "ok":
        assert [audit.line_hash(line) for line in lines] == case["hashes"]
