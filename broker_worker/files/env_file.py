"""Env files, read as `python-dotenv` reads them and changed without touching anything but single values."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from dotenv.parser import Binding, parse_stream

from broker_worker.core.errors import ConfigError

MAX_BYTES: Final = 1024 * 1024
_BOM: Final = "\ufeff"
_VALUE: Final = re.compile(
    r"""(?P<head>\s*(?:export[^\S\r\n]+)?(?:'[^']+'|[^=\#\s]+)[^\S\r\n]*=[^\S\r\n]*)"""
    r"""(?P<value>'(?:\\'|[^'])*'|"(?:\\"|[^"])*"|[^\r\n]*)""",
    re.VERBOSE,
)
_COMMENT: Final = re.compile(r"\s+#.*\Z|\s+\Z")


@dataclass(frozen=True, slots=True)
class Setting:
    """A variable of an env file.

    Args:
        name: its name.
        line: where it stands, from 1.
        value: its value, quotes and escapes resolved; never shown by `repr`.
        written: the value as it is written, without its quotes.
    """

    name: str
    line: int
    value: str = field(repr=False)
    written: str = field(repr=False)


class EnvFile:
    """The text of an env file.

    Args:
        raw: its bytes, UTF-8 with or without a byte order mark, any line ends.
        file: its name in errors.

    Raises:
        ConfigError: with file and line, if it cannot be read without doubt.
    """

    def __init__(self, raw: bytes, file: str) -> None:
        self._file = file
        if len(raw) > MAX_BYTES:
            raise ConfigError(f"larger than {MAX_BYTES} bytes", file=file, hint="is it an env file?")
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            line = raw.count(b"\n", 0, error.start) + 1
            raise ConfigError("not UTF-8", file=file, line=line, hint="save the file as UTF-8") from None
        if "\0" in text:
            raise ConfigError("a NUL byte", file=file, hint="is it an env file?")
        self._mark = _BOM if text.startswith(_BOM) else ""
        self._bindings = list(parse_stream(io.StringIO(text.removeprefix(_BOM), newline="")))
        if self._mark + "".join(each.original.string for each in self._bindings) != text:
            raise ConfigError("cannot be taken apart and put together again", file=file, hint="use plain line ends")
        for binding in self._bindings:
            if binding.error:
                message = "this is no `NAME=value` line, no comment and not empty"
                raise ConfigError(message, file=file, line=_line(binding), hint="mend or remove the line")

    @property
    def settings(self) -> tuple[Setting, ...]:
        """The variables that have a value, in their order."""
        return tuple(
            Setting(binding.key, _line(binding), binding.value, _written(binding))
            for binding in self._bindings
            if binding.key is not None and binding.value
        )

    def with_values(self, values: Mapping[str, str]) -> bytes:
        """The file with other values; all else stays, byte for byte, quotes too.

        Args:
            values: for some of its variables the new value, without quotes, line breaks and spaces.

        Raises:
            ConfigError: if the file would then not say just that.
        """
        parts = [_exchanged(each, values.get(each.key or "")) for each in self._bindings]
        raw = (self._mark + "".join(parts)).encode()
        read = EnvFile(raw, self._file)
        for old, new in zip(self._bindings, read._bindings, strict=False):  # another one of this class
            expected = (values.get(old.key or "") if old.value else None) or old.value
            if (new.key, new.value) != (old.key, expected):
                hint = "write it as NAME=value, with or without quotes"
                raise ConfigError("this line cannot be changed safely", file=self._file, line=_line(old), hint=hint)
        return raw


def _line(binding: Binding) -> int:
    """Where a binding's own text begins; the parser counts the empty lines before it as part of it."""
    text = binding.original.string
    blank = text[: len(text) - len(text.lstrip())]
    return binding.original.line + len(re.findall(r"\r\n|\n|\r", blank))


def _written(binding: Binding) -> str:
    found = _VALUE.match(binding.original.string)
    if found is None:
        return ""
    value = found["value"]
    return value[1:-1] if value[:1] in {"'", '"'} else _COMMENT.sub("", value)


def _exchanged(binding: Binding, value: str | None) -> str:
    text = binding.original.string
    found = _VALUE.match(text) if value and binding.value else None
    if found is None or value is None:
        return text
    start, end = found.span("value")
    if found["value"][:1] in {"'", '"'}:
        return text[: start + 1] + value + text[end - 1 :]
    kept = _COMMENT.search(found["value"])
    return text[:start] + value + (text[start + kept.start() :] if kept else text[end:])
