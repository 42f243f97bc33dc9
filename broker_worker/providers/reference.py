"""What a reference names at its provider."""

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.core.references import FORMS, check_reference, scheme_of


def place_of(ref: str, scheme: str) -> str:
    """The part of a reference behind its scheme, checked for its form.

    Args:
        ref: the reference.
        scheme: the scheme that it must have.

    Raises:
        ProviderError: kind `BAD_REFERENCE`. The reference is not repeated: it may be a value that was pasted there.
    """
    try:
        fits = scheme_of(check_reference(ref)) == scheme
    except ValueError:
        fits = False
    if not fits:
        raise ProviderError(
            FailureKind.BAD_REFERENCE,
            f"the reference is not of the form {FORMS[scheme]}",
            hint="correct it in secrets.yaml",
        )
    return ref.partition("://")[2]
