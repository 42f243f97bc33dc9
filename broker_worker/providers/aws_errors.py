"""What AWS's failures mean: the only place that looks at them.

AWS answers with a code (API reference, "Common errors", and the list of each action); botocore raises its own
exceptions for what never came to an answer. Only codes, statuses and names of classes are looked at: what is raised is
in our own words, because AWS's may hold names of secrets, accounts and, of a request that was refused, its values.
What no row knows is `UNKNOWN`, and refused. botocore is not imported here: it is an optional part, and large.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from broker_worker.core.errors import FailureKind, ProviderError

THROTTLED_MS: Final = 2_000
"""When asking again may help where AWS does not say, in ms: its rates are counted by the second."""
_LONGEST_WAIT_MS: Final = 3_600_000
_K = FailureKind


@dataclass(frozen=True, slots=True)
class _Meaning:
    kind: FailureKind
    message: str
    hint: str = ""


_NOT_FOUND = _Meaning(
    _K.NOT_FOUND,
    "AWS has nothing of this name, version or stage in this region",
    "compare the reference in secrets.yaml, the region and the account with AWS",
)
_UNUSABLE = _Meaning(
    _K.NOT_FOUND,
    "the secret is scheduled for deletion, or in another state in which it has no value",
    "look at it in AWS; `aws secretsmanager restore-secret` takes a deletion back",
)
_FORBIDDEN = _Meaning(
    _K.FORBIDDEN,
    "AWS refuses these credentials this access",
    "compare the IAM policy, the secret's own policy and that of its KMS key with docs/providers.md",
)
_KEY = _Meaning(
    _K.FORBIDDEN,
    "AWS cannot use the KMS key that the value is encrypted with",
    "is the key enabled, and may these credentials use it (kms:Decrypt, to write kms:GenerateDataKey)?",
)
_EXPIRED = _Meaning(
    _K.UNAUTHENTICATED, "the AWS credentials have expired", "renew them; prefer a role, which renews its own"
)
_UNAUTHENTICATED = _Meaning(
    _K.UNAUTHENTICATED,
    "AWS does not accept these credentials",
    "is the access key active, whole and of this partition, and this host's clock right?",
)
_NO_CREDENTIALS = _Meaning(
    _K.UNAUTHENTICATED,
    "there are no AWS credentials",
    "give the host or container a role, or set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or name a `profile`",
)
_CREDENTIALS_LOST = _Meaning(
    _K.UNAUTHENTICATED,
    "the AWS credentials cannot be got from where they should come from",
    "try `aws sts get-caller-identity` as the broker's user, with the same profile",
)
_PROFILE = _Meaning(
    _K.UNAUTHENTICATED,
    "AWS's configuration has no such profile, or cannot be read",
    "compare `profile` in broker.yaml and AWS_PROFILE with ~/.aws/config of the broker's user",
)
_NO_REGION = _Meaning(
    _K.UNREACHABLE,
    "no AWS region is named, or none that can be one",
    "write `region:` in broker.yaml, or set AWS_REGION",
)
_RATE_LIMITED = _Meaning(
    _K.RATE_LIMITED,
    "AWS limits the rate of these requests",
    "longer ttl_seconds cost fewer requests; see Service Quotas in AWS",
)
_UNREACHABLE = _Meaning(
    _K.UNREACHABLE,
    "AWS cannot be reached or is out of order",
    "check network, proxy, VPC endpoint and health.aws.amazon.com",
)
_TLS = _Meaning(
    _K.UNREACHABLE,
    "there is no safe connection to AWS",
    "does a proxy put its own certificate in between? see AWS_CA_BUNDLE",
)
_TIMEOUT = _Meaning(_K.TIMEOUT, "AWS did not answer in time", "check network, proxy and VPC endpoint")
_REFUSED = _Meaning(
    _K.BAD_REFERENCE, "AWS does not take what was asked", "compare the reference in secrets.yaml with AWS"
)
_EXISTS = _Meaning(
    _K.CONFLICT, "AWS has something of this name already", "read its version, and write only if that is still meant"
)
_QUOTA = _Meaning(
    _K.FORBIDDEN, "an AWS quota leaves no room for it", "remove old versions, secrets or parameters, or raise the quota"
)
_GARBAGE = _Meaning(
    _K.UNKNOWN, "AWS's answer cannot be read", "something between here and AWS may change answers: a proxy?"
)
_UNKNOWN = _Meaning(_K.UNKNOWN, "AWS failed in a way that is not known", "try a newer boto3")

_CODES: Final = {
    **dict.fromkeys(("ResourceNotFoundException", "ParameterNotFound", "ParameterVersionNotFound"), _NOT_FOUND),
    "InvalidRequestException": _UNUSABLE,
    **dict.fromkeys(("AccessDeniedException", "AccessDenied", "NotAuthorized", "OptInRequired"), _FORBIDDEN),
    **dict.fromkeys(("DecryptionFailure", "EncryptionFailure", "InvalidKeyId"), _KEY),
    **dict.fromkeys(("ExpiredTokenException", "ExpiredToken", "RequestExpired", "TokenRefreshRequired"), _EXPIRED),
    **dict.fromkeys(
        (
            "UnrecognizedClientException",
            "InvalidClientTokenId",
            "InvalidAccessKeyId",
            "InvalidSignatureException",
            "SignatureDoesNotMatch",
            "IncompleteSignature",
            "IncompleteSignatureException",
            "MissingAuthenticationToken",
            "MissingAuthenticationTokenException",
            "AuthFailure",
            "RequestTimeTooSkewed",
        ),
        _UNAUTHENTICATED,
    ),
    **dict.fromkeys(
        (
            "ThrottlingException",
            "Throttling",
            "ThrottledException",
            "RequestThrottled",
            "RequestThrottledException",
            "TooManyRequestsException",
            "RequestLimitExceeded",
            "TooManyUpdates",
            "SlowDown",
        ),
        _RATE_LIMITED,
    ),
    **dict.fromkeys(
        (
            "InternalServiceError",
            "InternalServerError",
            "InternalFailure",
            "ServiceUnavailable",
            "ServiceUnavailableException",
        ),
        _UNREACHABLE,
    ),
    **dict.fromkeys(("RequestTimeout", "RequestTimeoutException"), _TIMEOUT),
    **dict.fromkeys(
        (
            "InvalidParameterException",
            "InvalidParameterValue",
            "ValidationException",
            "ValidationError",
            "HierarchyLevelLimitExceededException",
            "HierarchyTypeMismatchException",
            "ParameterPatternMismatchException",
            "UnsupportedParameterType",
        ),
        _REFUSED,
    ),
    **dict.fromkeys(("ResourceExistsException", "ParameterAlreadyExists"), _EXISTS),
    **dict.fromkeys(("LimitExceededException", "ParameterLimitExceeded", "ParameterMaxVersionLimitExceeded"), _QUOTA),
}

# By the name of a class of botocore's or of the nearest one that it derives from.
_CLASSES: Final = {
    "TimeoutError": _TIMEOUT,
    "ConnectTimeoutError": _TIMEOUT,
    "ReadTimeoutError": _TIMEOUT,
    "SSLError": _TLS,
    **dict.fromkeys(("ConnectionError", "HTTPClientError"), _UNREACHABLE),
    **dict.fromkeys(("NoCredentialsError", "NoAuthTokenError"), _NO_CREDENTIALS),
    **dict.fromkeys(
        (
            "PartialCredentialsError",
            "CredentialRetrievalError",
            "MetadataRetrievalError",
            "TokenRetrievalError",
            "UnknownCredentialError",
            "RefreshWithMFAUnsupportedError",
            "SSOError",
            "LoginError",
            "InvalidIMDSEndpointError",
            "InvalidIMDSEndpointModeError",
            "MissingDependencyException",
        ),
        _CREDENTIALS_LOST,
    ),
    **dict.fromkeys(("ProfileNotFound", "ConfigParseError", "ConfigNotFound", "InvalidConfigError"), _PROFILE),
    **dict.fromkeys(("BaseEndpointResolverError", "EndpointProviderError", "InvalidRegionError"), _NO_REGION),
    "ParamValidationError": _REFUSED,
    **dict.fromkeys(("ResponseParserError", "ResponseStreamingError", "IncompleteReadError"), _GARBAGE),
}


def of_exception(error: BaseException) -> ProviderError:
    """What an exception of botocore's, or of waiting for it, means.

    Args:
        error: what was raised. It is not kept, and nothing of its text is: raise the result outside the `except`
            block, so that it does not become its context either.
    """
    response = getattr(error, "response", None)
    if isinstance(response, Mapping):
        return _of_response(response)
    names = (base.__name__ for base in type(error).__mro__)
    return _error(next((_CLASSES[name] for name in names if name in _CLASSES), _UNKNOWN))


def of_code(code: object) -> ProviderError:
    """What a code means that stands in an answer beside values of other names.

    Args:
        code: such as `ResourceNotFoundException`.
    """
    return _error(_CODES.get(code, _UNKNOWN) if isinstance(code, str) else _GARBAGE)


def not_found() -> ProviderError:
    """The error for a name that AWS says it does not have."""
    return _error(_NOT_FOUND)


def unreadable_answer() -> ProviderError:
    """The error for an answer that lacks what was asked for."""
    return _error(_GARBAGE)


def _of_response(response: Mapping[str, object]) -> ProviderError:
    error, metadata = _mapping(response.get("Error")), _mapping(response.get("ResponseMetadata"))
    code, status = error.get("Code"), metadata.get("HTTPStatusCode")
    meaning = _CODES.get(code) if isinstance(code, str) else None
    if meaning is None and isinstance(status, int):
        meaning = _RATE_LIMITED if status == 429 else _UNREACHABLE if status >= 500 else None
    return _error(meaning or _UNKNOWN, _wait_ms(_mapping(metadata.get("HTTPHeaders"))))


def _wait_ms(headers: Mapping[str, object]) -> int | None:
    """How long AWS says to wait, in ms: `x-amz-retry-after` counts ms, `retry-after` seconds (RFC 9110, 10.2.3)."""
    for name, unit in (("x-amz-retry-after", 1), ("retry-after", 1_000)):
        text = headers.get(name)
        if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 10:
            return min(int(text) * unit, _LONGEST_WAIT_MS)
    return None


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def _error(meaning: _Meaning, wait_ms: int | None = None) -> ProviderError:
    if meaning is _RATE_LIMITED and wait_ms is None:
        wait_ms = THROTTLED_MS
    return ProviderError(meaning.kind, meaning.message, retry_after=wait_ms, hint=meaning.hint)
