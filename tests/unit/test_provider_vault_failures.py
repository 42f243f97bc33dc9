"""What Vault's answers mean."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker_worker.core.errors import FailureKind
from broker_worker.providers.vault.answers import Answer, Trouble
from broker_worker.providers.vault.failures import of_answer, of_login, of_trouble

K = FailureKind
ACL = "1 error occurred:\n\t* permission denied\n\n"


@pytest.mark.parametrize(
    ("status", "texts", "kind", "says"),
    [
        # Seen with OpenBao 2.7.2.
        (400, ["check-and-set parameter did not match the current version"], K.CONFLICT, "another version"),
        (400, ["unknown role: nope"], K.NOT_FOUND, "no such role"),
        (400, ["Upgrading from non-versioned to versioned data. This backend …"], K.UNREACHABLE, "serves nothing yet"),
        (400, ["lease not found"], K.UNKNOWN, "does not understand"),
        (403, ["permission denied"], K.UNAUTHENTICATED, "does not accept the token"),
        (403, [ACL], K.FORBIDDEN, "policies"),
        (403, ['preflight capability check returned 403, please ensure … "secret/foo/"'], K.FORBIDDEN, "policies"),
        (404, [], K.NOT_FOUND, "nothing at this path"),
        (404, ['no handler for route "nomount/x". route entry not found.'], K.NOT_FOUND, "no secrets engine"),
        (405, ["1 error occurred:\n\t* unsupported operation\n\n"], K.BAD_REFERENCE, "read or written"),
        (500, ["1 error occurred:\n\t* failed to get connection: dial tcp"], K.UNKNOWN, "served this path"),
        (503, ["Vault is sealed"], K.UNREACHABLE, "is sealed"),
        # From the documentation of Vault's API and its sources.
        (301, [], K.UNREACHABLE, "no redirect is followed"),
        (307, [], K.UNREACHABLE, "no redirect is followed"),
        (400, ["missing client token"], K.UNAUTHENTICATED, "does not accept the token"),
        (401, [], K.UNAUTHENTICATED, "does not accept the token"),
        (403, ["2 errors occurred:\n\t* permission denied\n\t* invalid token\n\n"], K.UNAUTHENTICATED, "the token"),
        (403, ["bad token"], K.UNAUTHENTICATED, "does not accept the token"),
        (403, [], K.FORBIDDEN, "policies"),
        (412, ["required index state not present"], K.UNREACHABLE, "not caught up"),
        (429, ["request path … : rate limit quota exceeded"], K.RATE_LIMITED, "rate limit"),
        (472, [], K.UNREACHABLE, "standby"),
        (473, [], K.UNREACHABLE, "standby"),
        (501, [], K.UNREACHABLE, "not initialized"),
        (502, [], K.UNREACHABLE, "out of order"),
        (503, ["local node not active but active cluster node not found"], K.UNREACHABLE, "standby"),
        (503, [], K.UNREACHABLE, "out of order"),
        (504, [], K.UNREACHABLE, "out of order"),
        (418, [], K.UNKNOWN, "not known"),
        (505, [], K.UNKNOWN, "not known"),
        (200, [], K.UNKNOWN, "not one of Vault's"),
    ],
)
def test_answers_are_told_apart(status: int, texts: list[str], kind: FailureKind, says: str) -> None:
    """Each status, with the texts that matter, has its kind and a message of ours; most say what to do."""
    error = of_answer(Answer(status, {"errors": texts}))
    assert error.kind is kind
    assert says in str(error)
    assert error.hint or kind is K.BAD_REFERENCE


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405])
def test_a_refused_login_is_about_the_credentials(status: int) -> None:
    """Whichever of these statuses a method chooses for it."""
    assert of_login(Answer(status, {"errors": ["invalid role or secret ID"]})).kind is K.UNAUTHENTICATED


@pytest.mark.parametrize("status", [307, 429, 500, 503])
def test_an_outage_is_no_refused_login(status: int) -> None:
    """So the credentials are tried again soon."""
    assert of_login(Answer(status)).kind is not K.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        (Trouble.TIMEOUT, K.TIMEOUT),
        (Trouble.UNREACHABLE, K.UNREACHABLE),
        (Trouble.TLS, K.UNREACHABLE),
        (Trouble.TOO_LARGE, K.TOO_LARGE),
        (Trouble.UNREADABLE, K.UNKNOWN),
    ],
)
def test_what_is_no_answer_has_its_kind(trouble: Trouble, kind: FailureKind) -> None:
    """Without a status, or with one that only Vault's own JSON would explain."""
    assert of_trouble(trouble).kind is kind
    for status in (0, 200, 400, 403, 404, 405):
        assert of_answer(Answer(status, trouble=trouble)).kind is kind


@pytest.mark.parametrize(("status", "kind"), [(302, K.UNREACHABLE), (401, K.UNAUTHENTICATED), (502, K.UNREACHABLE)])
def test_some_statuses_need_no_body(status: int, kind: FailureKind) -> None:
    """A proxy's page says the same with them as Vault would."""
    assert of_answer(Answer(status, trouble=Trouble.UNREADABLE)).kind is kind


@settings(max_examples=40)
@given(
    st.integers(0, 999),
    st.lists(st.text() | st.integers(), max_size=3) | st.text() | st.none(),
    st.sampled_from([None, *Trouble]),
)
def test_any_answer_has_a_meaning_in_our_own_words(status: int, errors: object, trouble: Trouble | None) -> None:
    """Nothing of a text is repeated, and a wait is passed on."""
    body = {"errors": [*errors, "permission denied c4nary"] if isinstance(errors, list) else errors}
    for meaning in (of_answer, of_login):
        error = meaning(Answer(status, body, 3000, trouble))
        assert "c4nary" not in str(error) + error.hint
        assert str(error)
        assert error.retry_after in (None, 3000)
