"""References: what a registry may point to."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.policy import Origin
from broker_worker.core.references import FORMS, SCHEMES, can_be_installed, check_reference, scheme_of
from broker_worker.providers.options import Surroundings
from broker_worker.providers.schemes import make_providers


@pytest.mark.parametrize(
    "reference",
    [
        "op://Agent-Orchestra-Secrets/GitHub-PAT/credential",
        "op://Private/My Server/Section 1/password",
        "op://vault/item/one-time password?attribute=otp",
        "op://vault/key/private key?ssh-format=openssh",
        "connect://Agents/GitHub PAT/credential",
        "connect://ionaiwtdvgclrixbt6ztpqcxnq/p7eflcy7f5mk7vg6zrzf5rjjyu/Section 1/id_ed25519.pub",
        "local://openai.api_key",
        "env://OPENAI_API_KEY",
    ],
)
def test_a_reference_of_a_known_form_is_kept_as_written(reference: str) -> None:
    """Nothing is normalised."""
    assert check_reference(reference) == reference


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "sk-live-canary",
        "vault://secret/path",
        "OP://vault/item/field",
        "op:/vault/item/field",
        "op://vault/item",
        "op://vault/item/section/field/more",
        "op://vault//field",
        "op:// vault/item/field",
        "op://vault/../field",
        "op://vault/item/field?",
        "op://vault/item/field?attribute=otp&x=1",
        "op://vault/item/fi\x00eld",
        "op://vault/item/" + "x" * 600,
        "connect://vault/item",
        "connect://vault/../field",
        "connect://vault/item/field?attribute=otp",
        'connect://vault/it"em/field',
        "connect://vault/it\\em/field",
        "local://",
        "local://Upper",
        "local://../vault",
        "env://lower",
        "env://1X",
        "env://PATH/x",
    ],
)
def test_any_other_reference_is_refused(reference: str) -> None:
    """When the file is read, not when an agent asks."""
    with pytest.raises(ValueError, match="reference"):
        check_reference(reference)


@pytest.mark.parametrize("reference", ["c4nary", "op://c4nary", "c4nary://x", "local://C4nary/c4nary", "env://c4nary"])
def test_a_refusal_does_not_repeat_the_text(reference: str) -> None:
    """It may be a value that somebody pasted."""
    with pytest.raises(ValueError, match=r"expected|form") as caught:
        check_reference(reference)
    assert "c4nary" not in str(caught.value).lower()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_every_scheme_has_a_provider_and_a_form(tmp_path: Path) -> None:
    """The tables here and in `providers.schemes` name the same schemes and types."""
    around = Surroundings(tmp_path / "vault", tmp_path / "key", lambda _: bytes(32), {}, lambda: 0)
    needed = {"connect": {"url": "https://connect.example.com"}}
    sections = [ProviderSettings(kind, needed.get(kind, {}), Origin("broker.yaml", 1)) for kind in SCHEMES.values()]
    assert set(make_providers(sections, around)) == set(SCHEMES) == set(FORMS)


@given(st.text(max_size=60))
def test_what_passes_has_a_known_scheme(text: str) -> None:
    """Arbitrary text either passes with a scheme of the table or raises ValueError."""
    try:
        check_reference(text)
    except ValueError:
        return
    assert scheme_of(text) in SCHEMES


def test_an_installed_type_has_the_scheme_of_its_name() -> None:
    """Only where it is configured; what stands behind the scheme is for its package to check."""
    assert check_reference("keepass://Team/../Git Hub", ["keepass"]) == "keepass://Team/../Git Hub"
    for reference in ("keepass://", "keepass:// x", "keepass://a\x00", "keepass://" + "x" * 600, "other://x"):
        with pytest.raises(ValueError, match="reference"):
            check_reference(reference, ["keepass"])
    with pytest.raises(ValueError, match="begins with"):
        check_reference("keepass://Team/GitHub")


@pytest.mark.parametrize(
    "kind", ["local", "op", "env", "onepassword", "Keepass", "", "-x", "x", "a b", "a_b", "a" * 40]
)
def test_what_cannot_be_an_installed_type(kind: str) -> None:
    """Types and schemes of the broker itself, and what would be no scheme."""
    assert not can_be_installed(kind)
    assert can_be_installed("keepass-2")
