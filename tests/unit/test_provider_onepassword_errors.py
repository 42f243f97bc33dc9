"""The one table of what 1Password's failures mean."""

import typing

import pytest
from onepassword import types as sdk  # type: ignore[import-untyped]  # it has no types

from broker_worker.core.errors import FailureKind
from broker_worker.providers.onepassword_errors import of_exception, of_reference, unreadable_answer

K = FailureKind
SIGN_IN = "authentication error: "


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        # Texts of onepassword-sdk 0.4.2's native core at sign-in, as a server on the loopback interface provoked them.
        (SIGN_IN + "you are not authenticated", K.UNAUTHENTICATED),
        (SIGN_IN + "you don't have the right permissions to access this resource", K.FORBIDDEN),
        (SIGN_IN + "rate limit exceeded", K.RATE_LIMITED),
        (SIGN_IN + "internal server error", K.UNREACHABLE),
        (SIGN_IN + "unexpected status code in response: 502 Bad Gateway", K.UNREACHABLE),
        (SIGN_IN + "unexpected status code in response: 503 Service Unavailable", K.UNREACHABLE),
        (
            SIGN_IN + "request library compatibility issue, check that the your environment uses compatible versions: "
            "reqwest library: error sending request for url (<redacted URL>)",
            K.UNREACHABLE,
        ),
        (SIGN_IN + "bad service account token, please rotate it: invalid user auth parameters", K.UNAUTHENTICATED),
        (
            SIGN_IN + "when deserializing HTTP responses into the corresponding types in unauthenticated request: "
            'Error("expected value", line: 1, column: 1)',
            K.UNKNOWN,
        ),
        (SIGN_IN + "bad request", K.UNKNOWN),
        (SIGN_IN + "resource not found", K.UNKNOWN),
        (
            "invalid service account token, please make sure you provide a valid service account token",
            K.UNAUTHENTICATED,
        ),
        ("invalid user input: encountered the following errors: service account token was not", K.UNAUTHENTICATED),
        # Texts in the library that only a signed-in client meets, and those that users reported.
        ("request timeout", K.TIMEOUT),
        ("bad credentials, please retry: session expired", K.UNAUTHENTICATED),
        (
            "error when retrieving vault metadata: http error: unexpected http status: 401 Unauthorized",
            K.UNAUTHENTICATED,
        ),
        ("http error: unexpected http status: 429 Too Many Requests", K.RATE_LIMITED),
        ("length mismatch when processing results returned by the server", K.UNKNOWN),
        ("", K.UNKNOWN),
        ("an internal error occurred, please contact 1Password", K.UNKNOWN),
    ],
)
def test_texts_of_the_core_are_told_apart(text: str, kind: FailureKind) -> None:
    """Each text that the core is known to raise has its kind, in either case of letters; others are `UNKNOWN`."""
    assert of_exception(Exception(text)).kind is kind
    assert of_exception(Exception(text.upper())).kind is kind


def test_typed_exceptions_count_without_their_text() -> None:
    """The SDK's rate-limit exception, a timeout and a parser's error are known by their type."""

    class RateLimitExceededException(Exception):  # noqa: N818  # the SDK's name
        pass

    class ValidationError(Exception):
        pass

    assert of_exception(RateLimitExceededException("anything")).kind is K.RATE_LIMITED
    assert of_exception(TimeoutError()).kind is K.TIMEOUT
    assert of_exception(ValidationError("you are not authenticated")).kind is K.UNKNOWN


def test_nothing_of_a_text_is_repeated() -> None:
    """Whatever the SDK says, the broker says it in its own words."""
    text = "rate limit exceeded for op://vault/item/field with value hunter2"
    assert "op://" not in f"{of_exception(Exception(text))!r}"


@pytest.mark.parametrize(
    ("error_type", "kind"),
    [
        ("parsing", K.BAD_REFERENCE),
        ("vaultNotFound", K.NOT_FOUND),
        ("itemNotFound", K.NOT_FOUND),
        ("noMatchingSections", K.NOT_FOUND),
        ("fieldNotFound", K.NOT_FOUND),
        ("tooManyVaults", K.AMBIGUOUS),
        ("tooManyItems", K.AMBIGUOUS),
        ("tooManyMatchingFields", K.AMBIGUOUS),
        ("incompatibleTOTPQueryParameterField", K.BAD_REFERENCE),
        ("incompatibleSshKeyQueryParameterField", K.BAD_REFERENCE),
        ("sSHKeyMetadataNotFound", K.BAD_REFERENCE),
        ("unsupportedFileFormat", K.BAD_REFERENCE),
        ("unableToGenerateTotpCode", K.UNKNOWN),
        ("unableToParsePrivateKey", K.UNKNOWN),
        ("unableToFormatPrivateKeyToOpenSsh", K.UNKNOWN),
        ("other", K.UNKNOWN),
        ("somethingNew", K.UNKNOWN),
    ],
)
def test_errors_of_references_are_told_apart(error_type: str, kind: FailureKind) -> None:
    """Each typed error of the SDK has its kind; a new one is `UNKNOWN`."""
    assert of_reference(error_type).kind is kind


def test_every_error_type_of_the_sdk_has_a_row() -> None:
    """A new error type of a newer SDK fails this test until somebody says what it means."""
    unknown = str(of_reference("somethingNew"))
    types = {variant.model_fields["type"].default.value for variant in typing.get_args(sdk.ResolveReferenceError)}
    assert len(types) == 16
    assert {name for name in types if str(of_reference(name)) == unknown} == {"other"}


def test_unreadable_answer_is_unknown() -> None:
    """An answer that lacks what was asked for is refused."""
    assert unreadable_answer().kind is K.UNKNOWN
