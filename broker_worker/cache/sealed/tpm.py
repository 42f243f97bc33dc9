"""A wrapping key that a TPM 2.0 seals to this machine, and optionally to what it booted (tpm2-pytss).

The key is a data object below the owner's primary key, which never leaves the TPM; unsealing it takes a session that
encrypts what goes over the bus. Beside it stands an NV index of the kind "counter", which only counts up and begins
above every count that the TPM ever had (TPM 2.0 Library, Part 1, "NV Counter Index").
"""

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Final

from msgspec import Meta, Struct

from agent_sdk.wire.aead import KEY_BYTES
from agent_sdk.wire.codec import Codec
from agent_sdk.wire.errors import WireError
from broker_worker.cache.sealed.counter import Counter
from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.wrapping import MAX_PARAMETERS, Wrapped

if TYPE_CHECKING:
    from tpm2_pytss import ESAPI, ESYS_TR, TPM2B_DIGEST

FIRST_INDEX, LAST_INDEX = 0x0180_0000, 0x01BF_FFFF
"""NV indices for owners (TCG, "Registry of Reserved TPM 2.0 Handles and Localities")."""
COUNTER_SECONDS: Final = 900.0
"""NV memory bears some 100,000 writes, so a step a quarter of an hour, and one at the end."""
_COUNTER_BYTES = 8
_TRIES = 5
_TAKEN = 0x14C  # TPM_RC_NV_DEFINED
_FORMAT_ONE, _WARNINGS = 0x080, 0x900  # TPM 2.0 Library, Part 2, "TPM_RC": a warning: busy, or locked out for a while
_LAYERS_OF_TPM, _LAYER_OF_FORMS = (0, 12), 9  # TSS 2.0 Overview and Common Structures, "TSS2_RC"


class _Parameters(Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    index: Annotated[int, Meta(ge=FIRST_INDEX, le=LAST_INDEX)]
    pcrs: Annotated[list[Annotated[int, Meta(ge=0, le=23)]], Meta(max_length=24)]
    public: Annotated[bytes, Meta(max_length=1024)]
    private: Annotated[bytes, Meta(max_length=2048)]


_PARAMETERS = Codec(_Parameters, "parameters of the TPM", MAX_PARAMETERS)


@dataclass(frozen=True, slots=True)
class _Session:
    """An open TPM.

    Args:
        tpm: its commands.
        primary: the key that wraps others.
        session: authorises, and encrypts what goes over the bus.
    """

    tpm: "ESAPI"
    primary: "ESYS_TR"
    session: "ESYS_TR"


class TpmWrapping:
    """Implements `Wrapping`.

    Args:
        tcti: how the TPM is reached (tpm2-tss, `Tss2_TctiLdr_Initialize`).
        pcrs: the platform configuration registers, of the SHA-256 bank, that a new key is sealed to.
    """

    def __init__(self, tcti: str, pcrs: Sequence[int] = ()) -> None:
        self._tcti = tcti
        self._pcrs = sorted(set(pcrs))

    def make(self) -> Wrapped:
        """Make a new wrapping key, and a counter beside it."""
        key = os.urandom(KEY_BYTES)
        try:
            with _opened(self._tcti) as open_tpm:
                public, private = _seal(open_tpm, key, self._pcrs)
                index = _define_counter(open_tpm, key)
        except RefusedError as error:
            hint = "an owner password, or no room for another NV index, does that"
            raise UnavailableError(str(error), hint=hint) from None
        return Wrapped(_PARAMETERS.encode(_Parameters(index, self._pcrs, public, private)), key)

    def open(self, parameters: bytes) -> bytes:
        """Find a wrapping key again."""
        known = _read(parameters)
        with _opened(self._tcti) as open_tpm:
            key = _unseal(open_tpm, known)
        if len(key) != KEY_BYTES:
            raise RefusedError("the TPM gives out another key than one for the sealed cache")
        return key

    def counter(self, parameters: bytes, key: bytes) -> Counter | None:
        """The NV index beside the key."""
        return _TpmCounter(self._tcti, _read(parameters).index, key)

    def forget(self, parameters: bytes) -> None:
        """Undefine the NV index."""
        with suppress(UnavailableError, RefusedError):
            index = _read(parameters).index
            with _opened(self._tcti) as open_tpm:
                open_tpm.tpm.nv_undefine_space(open_tpm.tpm.tr_from_tpmpublic(index))


class _TpmCounter:
    """Implements `Counter` in an NV index."""

    interval_seconds = COUNTER_SECONDS

    def __init__(self, tcti: str, index: int, key: bytes) -> None:
        self._tcti = tcti
        self._index = index
        self._key = key

    def value(self) -> int:
        """The number now."""
        with self._authorised() as (open_tpm, index):
            number = open_tpm.tpm.nv_read(index, _COUNTER_BYTES, auth_handle=index, session1=open_tpm.session)
            return int.from_bytes(bytes(number))

    def advance(self) -> None:
        """Add one."""
        with self._authorised() as (open_tpm, index):
            open_tpm.tpm.nv_increment(index, auth_handle=index, session1=open_tpm.session)

    @contextmanager
    def _authorised(self) -> "Iterator[tuple[_Session, ESYS_TR]]":
        with _opened(self._tcti) as open_tpm:
            index = open_tpm.tpm.tr_from_tpmpublic(self._index)
            open_tpm.tpm.tr_set_auth(index, self._key)
            yield open_tpm, index


def _seal(open_tpm: _Session, key: bytes, pcrs: Sequence[int]) -> tuple[bytes, bytes]:
    import tpm2_pytss as tss  # noqa: PLC0415  # large, and only there where a TPM is used

    attributes = tss.TPMA_OBJECT.FIXEDTPM | tss.TPMA_OBJECT.FIXEDPARENT | tss.TPMA_OBJECT.NODA
    policy = tss.TPM2B_DIGEST()
    if pcrs:
        with _policy(open_tpm, pcrs, tss.TPM2_SE.TRIAL) as (_, digest):
            policy = digest
    else:
        attributes |= tss.TPMA_OBJECT.USERWITHAUTH
    nothing = tss.TPMT_KEYEDHASH_SCHEME(scheme=tss.TPM2_ALG.NULL)
    template = tss.TPMT_PUBLIC(
        type=tss.TPM2_ALG.KEYEDHASH,
        nameAlg=tss.TPM2_ALG.SHA256,
        objectAttributes=attributes,
        authPolicy=policy,
        parameters=tss.TPMU_PUBLIC_PARMS(keyedHashDetail=tss.TPMS_KEYEDHASH_PARMS(scheme=nothing)),
    )
    sensitive = tss.TPMS_SENSITIVE_CREATE(data=tss.TPM2B_SENSITIVE_DATA(key))
    private, public, *_ = open_tpm.tpm.create(
        open_tpm.primary,
        tss.TPM2B_SENSITIVE_CREATE(sensitive),
        tss.TPM2B_PUBLIC(template),
        session2=open_tpm.session,
    )
    return public.marshal(), private.marshal()


def _unseal(open_tpm: _Session, known: _Parameters) -> bytes:
    import tpm2_pytss as tss  # noqa: PLC0415  # large, and only there where a TPM is used

    public, _ = tss.TPM2B_PUBLIC.unmarshal(known.public)
    private, _ = tss.TPM2B_PRIVATE.unmarshal(known.private)
    sealed = open_tpm.tpm.load(open_tpm.primary, private, public)
    try:
        if not known.pcrs:
            return bytes(open_tpm.tpm.unseal(sealed, session2=open_tpm.session))
        with _policy(open_tpm, known.pcrs, tss.TPM2_SE.POLICY) as (session, _):
            return bytes(open_tpm.tpm.unseal(sealed, session1=session, session2=open_tpm.session))
    finally:
        open_tpm.tpm.flush_context(sealed)


@contextmanager
def _policy(open_tpm: _Session, pcrs: Sequence[int], kind: int) -> "Iterator[tuple[ESYS_TR, TPM2B_DIGEST]]":
    """A session that states which values the registers have, and the digest of that statement."""
    import tpm2_pytss as tss  # noqa: PLC0415  # large, and only there where a TPM is used

    nobody, plain = tss.ESYS_TR.NONE, tss.TPMT_SYM_DEF(algorithm=tss.TPM2_ALG.NULL)
    session = open_tpm.tpm.start_auth_session(nobody, nobody, tss.TPM2_SE(kind), plain, tss.TPM2_ALG.SHA256)
    try:
        open_tpm.tpm.policy_pcr(session, b"", "sha256:" + ",".join(map(str, pcrs)))
        yield session, open_tpm.tpm.policy_get_digest(session)
    finally:
        open_tpm.tpm.flush_context(session)


def _define_counter(open_tpm: _Session, key: bytes) -> int:
    """Make a counter at an index that is free; its first step gives it a value."""
    import tpm2_pytss as tss  # noqa: PLC0415  # large, and only there where a TPM is used

    attributes = tss.TPMA_NV.AUTHREAD | tss.TPMA_NV.AUTHWRITE | tss.TPMA_NV.NO_DA
    attributes |= tss.TPM2_NT.COUNTER << tss.TPMA_NV.TPM2_NT_SHIFT
    for tries_left in reversed(range(_TRIES)):
        index = FIRST_INDEX + secrets.randbelow(LAST_INDEX - FIRST_INDEX + 1)
        public = tss.TPMS_NV_PUBLIC(
            nvIndex=index, nameAlg=tss.TPM2_ALG.SHA256, attributes=attributes, dataSize=_COUNTER_BYTES
        )
        try:
            handle = open_tpm.tpm.nv_define_space(key, tss.TPM2B_NV_PUBLIC(public), session2=open_tpm.session)
        except tss.TSS2_Exception as error:
            if int(error.rc) != _TAKEN or not tries_left:
                raise
            continue
        open_tpm.tpm.nv_increment(handle, auth_handle=handle, session1=open_tpm.session)
        return index
    raise AssertionError("the last try returns or raises")


@contextmanager
def _opened(tcti: str) -> Iterator[_Session]:
    """The TPM, for a few commands; every failure of its library is one of ours."""
    os.environ.setdefault("TSS2_LOG", "all+NONE")  # else the library writes to stderr what is said better here
    try:
        import tpm2_pytss as tss  # noqa: PLC0415  # large, and only there where a TPM is used
    except ImportError:
        raise UnavailableError(
            "tpm2-pytss is not installed",
            hint="apt install libtss2-dev, then install secret-broker with its extra `tpm`",
        ) from None
    attributes = tss.TPMA_SESSION.CONTINUESESSION | tss.TPMA_SESSION.DECRYPT | tss.TPMA_SESSION.ENCRYPT
    symmetric = tss.TPMT_SYM_DEF(
        algorithm=tss.TPM2_ALG.AES,
        keyBits=tss.TPMU_SYM_KEY_BITS(aes=128),
        mode=tss.TPMU_SYM_MODE(aes=tss.TPM2_ALG.CFB),
    )
    flush: list[Callable[[], None]] = []
    try:
        with tss.ESAPI(tcti) as tpm:
            try:
                primary, *_ = tpm.create_primary(None, "ecc256")
                flush.append(lambda: tpm.flush_context(primary))
                session = tpm.start_auth_session(
                    primary, tss.ESYS_TR.NONE, tss.TPM2_SE.HMAC, symmetric, tss.TPM2_ALG.SHA256
                )
                flush.append(lambda: tpm.flush_context(session))
                tpm.trsess_set_attributes(session, attributes)
                yield _Session(tpm, primary, session)
            finally:
                for each in reversed(flush):
                    with suppress(tss.TSS2_Exception):
                        each()
    except tss.TSS2_Exception as error:
        raise _explained(int(error.rc), str(error), tcti) from error


def _explained(code: int, text: str, tcti: str) -> UnavailableError | RefusedError:
    """What a failure of the TPM means: whether it says no, or cannot be asked."""
    layer, low = code >> 16, code & 0xFFFF
    is_warning = not low & _FORMAT_ONE and low & 0xF00 == _WARNINGS
    if layer == _LAYER_OF_FORMS or (layer in _LAYERS_OF_TPM and not is_warning):
        return RefusedError(
            f"the TPM refuses ({text})",
            hint="another machine, a cleared TPM, other PCR values, or an owner password do that",
        )
    return UnavailableError(
        f"there is no TPM that answers at {tcti} ({text})",
        hint="is the broker's user in the group tss, and may its unit reach the device?",
    )


def _read(parameters: bytes) -> _Parameters:
    try:
        return _PARAMETERS.decode(parameters)
    except WireError as error:
        raise RefusedError(f"the sealed cache's key file names no key of a TPM: {error}") from None
