"""The one table of what AWS's failures mean."""

from collections.abc import Mapping
from typing import Any

import boto3
import pytest
from botocore import exceptions as aws
from botocore.parsers import ResponseParserError

from broker_worker.core.errors import FailureKind
from broker_worker.providers.aws_errors import THROTTLED_MS, not_found, of_code, of_exception, unreadable_answer

K = FailureKind
CODES = {
    "ResourceNotFoundException": K.NOT_FOUND,
    "ParameterNotFound": K.NOT_FOUND,
    "ParameterVersionNotFound": K.NOT_FOUND,
    "InvalidRequestException": K.NOT_FOUND,
    "AccessDeniedException": K.FORBIDDEN,
    "AccessDenied": K.FORBIDDEN,
    "DecryptionFailure": K.FORBIDDEN,
    "EncryptionFailure": K.FORBIDDEN,
    "InvalidKeyId": K.FORBIDDEN,
    "LimitExceededException": K.FORBIDDEN,
    "ParameterLimitExceeded": K.FORBIDDEN,
    "ParameterMaxVersionLimitExceeded": K.FORBIDDEN,
    "ExpiredTokenException": K.UNAUTHENTICATED,
    "ExpiredToken": K.UNAUTHENTICATED,
    "RequestExpired": K.UNAUTHENTICATED,
    "UnrecognizedClientException": K.UNAUTHENTICATED,
    "InvalidClientTokenId": K.UNAUTHENTICATED,
    "InvalidSignatureException": K.UNAUTHENTICATED,
    "SignatureDoesNotMatch": K.UNAUTHENTICATED,
    "IncompleteSignature": K.UNAUTHENTICATED,
    "MissingAuthenticationTokenException": K.UNAUTHENTICATED,
    "ThrottlingException": K.RATE_LIMITED,
    "TooManyRequestsException": K.RATE_LIMITED,
    "RequestLimitExceeded": K.RATE_LIMITED,
    "TooManyUpdates": K.RATE_LIMITED,
    "InternalServiceError": K.UNREACHABLE,
    "InternalServerError": K.UNREACHABLE,
    "ServiceUnavailableException": K.UNREACHABLE,
    "RequestTimeoutException": K.TIMEOUT,
    "InvalidParameterException": K.BAD_REFERENCE,
    "ValidationException": K.BAD_REFERENCE,
    "HierarchyLevelLimitExceededException": K.BAD_REFERENCE,
    "HierarchyTypeMismatchException": K.BAD_REFERENCE,
    "ParameterPatternMismatchException": K.BAD_REFERENCE,
    "UnsupportedParameterType": K.BAD_REFERENCE,
    "ResourceExistsException": K.CONFLICT,
    "ParameterAlreadyExists": K.CONFLICT,
    "SomethingNew": K.UNKNOWN,
    "": K.UNKNOWN,
}
ACTIONS = {
    "secretsmanager": (
        "GetSecretValue",
        "BatchGetSecretValue",
        "PutSecretValue",
        "CreateSecret",
        "UpdateSecretVersionStage",
        "DescribeSecret",
        "GetRandomPassword",
    ),
    "ssm": ("GetParameters", "PutParameter", "DescribeParameters"),
}
NOT_ASKED_FOR = {
    "MalformedPolicyDocumentException",  # we send no policies
    "PreconditionNotMetException",
    "InvalidPolicyTypeException",
    "InvalidPolicyAttributeException",
    "IncompatiblePolicyException",
    "PoliciesLimitExceededException",
    "InvalidAllowedPatternException",  # nor patterns, filters and pages
    "InvalidFilterKey",
    "InvalidFilterOption",
    "InvalidFilterValue",
    "InvalidNextToken",
    "InvalidNextTokenException",
}


def answered(code: Any, status: int = 400, headers: Mapping[str, str] | None = None) -> aws.ClientError:
    """An answer of AWS's, as botocore raises it."""
    metadata = {"HTTPStatusCode": status, "HTTPHeaders": headers or {}}
    response: Any = {"Error": {"Code": code, "Message": "hunter2 for prod/db"}, "ResponseMetadata": metadata}
    return aws.ClientError(response, "GetSecretValue")


@pytest.mark.parametrize(("code", "kind"), CODES.items())
def test_codes_are_told_apart(code: str, kind: FailureKind) -> None:
    """Each code of AWS's has its kind, alone and in an answer for several names; others are `UNKNOWN`."""
    assert of_exception(answered(code)).kind is kind
    assert of_code(code).kind is kind


@pytest.mark.parametrize("service", ACTIONS)
def test_every_error_of_our_actions_has_a_row(service: Any) -> None:
    """An error that a newer boto3 knows of an action fails this test until somebody says what it means."""
    model: Any = boto3.session.Session(region_name="eu-central-1")._session.get_service_model(service)
    codes = {shape.error_code for action in ACTIONS[service] for shape in model.operation_model(action).error_shapes}
    assert len(codes) > 5
    unknown = {code for code in codes if of_code(code).kind is K.UNKNOWN}
    assert unknown <= NOT_ASKED_FOR


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (aws.NoCredentialsError(), K.UNAUTHENTICATED, "no AWS credentials"),
        (aws.PartialCredentialsError(provider="env", cred_var="x"), K.UNAUTHENTICATED, "cannot be got"),
        (aws.CredentialRetrievalError(provider="x", error_msg="hunter2"), K.UNAUTHENTICATED, "cannot be got"),
        (aws.MetadataRetrievalError(error_msg="hunter2"), K.UNAUTHENTICATED, "cannot be got"),
        (aws.UnauthorizedSSOTokenError(), K.UNAUTHENTICATED, "cannot be got"),
        (aws.SSOTokenLoadError(error_msg="hunter2"), K.UNAUTHENTICATED, "cannot be got"),
        (aws.ProfileNotFound(profile="hunter2"), K.UNAUTHENTICATED, "no such profile"),
        (aws.ConfigParseError(path="hunter2", error="x"), K.UNAUTHENTICATED, "no such profile"),
        (aws.InfiniteLoopConfigError(source_profile="a", visited_profiles=[]), K.UNAUTHENTICATED, "no such profile"),
        (aws.NoRegionError(), K.UNREACHABLE, "no AWS region"),
        (aws.InvalidRegionError(region_name="hunter2"), K.UNREACHABLE, "no AWS region"),
        (aws.EndpointConnectionError(endpoint_url="hunter2"), K.UNREACHABLE, "cannot be reached"),
        (aws.ProxyConnectionError(proxy_url="hunter2"), K.UNREACHABLE, "cannot be reached"),
        (aws.ConnectionClosedError(endpoint_url="hunter2"), K.UNREACHABLE, "cannot be reached"),
        (aws.SSLError(endpoint_url="hunter2", error=Exception("hunter2")), K.UNREACHABLE, "no safe connection"),
        (aws.ConnectTimeoutError(endpoint_url="hunter2"), K.TIMEOUT, "in time"),
        (aws.ReadTimeoutError(endpoint_url="hunter2"), K.TIMEOUT, "in time"),
        (TimeoutError(), K.TIMEOUT, "in time"),
        (aws.ParamValidationError(report="hunter2"), K.BAD_REFERENCE, "does not take"),
        (ResponseParserError("hunter2"), K.UNKNOWN, "cannot be read"),
        (aws.IncompleteReadError(actual_bytes=1, expected_bytes=2), K.UNKNOWN, "cannot be read"),
        (aws.UnknownServiceError(service_name="x", known_service_names=""), K.UNKNOWN, "not known"),
        (ValueError("hunter2"), K.UNKNOWN, "not known"),
    ],
)
def test_exceptions_of_botocore_are_told_apart(error: Exception, kind: FailureKind, says: str) -> None:
    """What never came to an answer has its kind by its class, and a message of our own with what to do."""
    found = of_exception(error)
    assert found.kind is kind
    assert says in str(found)
    assert found.hint


@pytest.mark.parametrize(
    ("status", "kind"), [(429, K.RATE_LIMITED), (500, K.UNREACHABLE), (503, K.UNREACHABLE), (403, K.UNKNOWN)]
)
def test_an_unknown_code_counts_by_its_status(status: int, kind: FailureKind) -> None:
    """Only where a status says enough by itself; whatever else is not known is refused."""
    assert of_exception(answered("SomethingNew", status)).kind is kind


@pytest.mark.parametrize(
    ("headers", "wait_ms"),
    [
        ({}, THROTTLED_MS),
        ({"retry-after": "7"}, 7_000),
        ({"x-amz-retry-after": "350"}, 350),
        ({"x-amz-retry-after": "350", "retry-after": "7"}, 350),
        ({"retry-after": "99999"}, 3_600_000),
        ({"retry-after": "99999999999999"}, THROTTLED_MS),
        ({"retry-after": "-1"}, THROTTLED_MS),
        ({"retry-after": "Sun, 06 Nov 1994 08:49:37 GMT"}, THROTTLED_MS),
        ({"retry-after": "\u0661"}, THROTTLED_MS),
    ],
)
def test_a_throttled_request_says_when_to_ask_again(headers: dict[str, str], wait_ms: int) -> None:
    """As AWS says it, in ms or in seconds, up to an hour; else after the time in which its rates are counted."""
    assert of_exception(answered("ThrottlingException", headers=headers)).retry_after == wait_ms


def test_other_failures_name_no_time() -> None:
    """Nobody is told to wait for what waiting does not mend."""
    assert of_exception(answered("AccessDeniedException")).retry_after is None
    assert of_exception(aws.NoCredentialsError()).retry_after is None


@pytest.mark.parametrize("response", [{}, {"Error": None}, {"Error": {"Code": None}, "ResponseMetadata": []}])
def test_an_answer_without_a_code_is_unknown(response: Any) -> None:
    """Also one that botocore would never make."""
    error = aws.ClientError({"Error": {"Code": "x", "Message": ""}}, "GetSecretValue")
    error.response = response
    assert of_exception(error).kind is K.UNKNOWN


def test_nothing_of_awss_texts_is_repeated() -> None:
    """Whatever AWS or botocore says, the broker says it in its own words."""
    errors = [of_exception(answered(code)) for code in CODES]
    errors.append(of_exception(aws.ProfileNotFound(profile="hunter2")))
    assert not [error for error in errors if "hunter2" in f"{error!r}{error.hint}" or "prod/db" in str(error)]


def test_what_an_answer_lacks_is_refused() -> None:
    """A name that AWS says it does not have, a code that is none, and an answer without what was asked for."""
    assert not_found().kind is K.NOT_FOUND
    assert of_code(7).kind is K.UNKNOWN
    assert unreadable_answer().kind is K.UNKNOWN
