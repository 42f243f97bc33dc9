"""The part of `broker.yaml`'s `cache` section that says how values survive a restart."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from broker_worker.core.configuration import MASTER_KEYS, SealedSettings
from broker_worker.files.sections import Section, Value

_OF_KIND: Final[Mapping[str, str]] = {
    "pcrs": "tpm",
    "tcti": "tpm",
    "credential": "systemd",
    "passphrase_env": "passphrase",
    "passphrase_file": "passphrase",
}
"""Keys that mean something for one kind of master key only."""
KEYS: Final = ("sealed", "master_key", "key_file", *_OF_KIND)
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,63}", re.ASCII)  # a passphrase would hardly pass for one
_CREDENTIAL = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_TCTI = re.compile(r"[a-z]+(?::[!-~]{1,256})?", re.ASCII)
_MAX_PCR = 23


def read_sealed(section: Section) -> SealedSettings | None:
    """Read the keys of the `cache` section that are about the sealed cache.

    Args:
        section: the `cache` section.

    Returns:
        None if the section does not switch it on.

    Raises:
        ConfigError: with file and line; what should not stand there is not repeated.
    """
    switch = section.get("sealed")
    if switch is None:
        for key in KEYS:
            written = section.get(key, private=True)
            if written is not None:
                raise written.error("means something for a sealed cache only", "write `sealed: true` beside it")
        return None
    is_sealed = switch.boolean()
    default = SealedSettings()
    kind = section.get("master_key")
    master_key = default.master_key if kind is None else kind.choice(*MASTER_KEYS)
    for key, of_kind in _OF_KIND.items():
        written = section.get(key, private=True)
        if written is not None and master_key not in {MASTER_KEYS[0], of_kind}:
            raise written.error(
                f"is for `master_key: {of_kind}`, and this says `{master_key}`", "remove one of the two lines"
            )
    section.refuse_both("passphrase_env", "passphrase_file")
    settings = SealedSettings(
        master_key=master_key,
        key_file=_path(section.get("key_file")),
        pcrs=_pcrs(section.get("pcrs")),
        tcti=_matching(section.get("tcti"), _TCTI, "a TCTI such as `device:/dev/tpmrm0`", default.tcti),
        credential=_matching(section.get("credential"), _CREDENTIAL, "a credential's name", default.credential),
        passphrase_env=_matching(
            section.get("passphrase_env", private=True),
            _VARIABLE,
            "the name of an environment variable, in upper case, not the passphrase",
            default.passphrase_env,
        ),
        passphrase_file=_path(section.get("passphrase_file", private=True)),
    )
    return settings if is_sealed else None


def _pcrs(value: Value | None) -> tuple[int, ...]:
    if value is None:
        return ()
    return tuple(sorted({item.integer(0, _MAX_PCR) for item in value.items("write `[7]` for one register")}))


def _matching(value: Value | None, form: re.Pattern[str], expected: str, otherwise: str) -> str:
    return otherwise if value is None else _checked(value, expected, lambda text: form.fullmatch(text) is not None)


def _path(value: Value | None) -> str | None:
    if value is None:
        return None
    written = _checked(value, "an absolute path", lambda text: Path(text).expanduser().is_absolute())
    return str(Path(written).expanduser())


def _checked(value: Value, expected: str, is_meant: Callable[[str], bool]) -> str:
    text = value.text(expected)
    if "\x00" in text or not is_meant(text):
        raise value.expected(expected)
    return text
