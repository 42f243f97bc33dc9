"""Which commands a model may have run, and with which secrets, as the operator's patterns say. All else is refused."""

import re
import shlex
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from msgspec import Struct

from agent_sdk.errors import InvalidRequest
from agent_sdk.references import SCHEME
from agent_sdk.wire.errors import WireError
from agent_sdk.wire.names import NamePattern

ANY_MORE: Final = "**"
"""A last word that stands for any further arguments, none included."""
_BINDING: Final = re.compile(rf"([A-Za-z_][A-Za-z0-9_]*)={re.escape(SCHEME)}(.*)", re.DOTALL)
_STEERING: Final = ("LD_", "DYLD_", "PYTHON", "PERL5", "RUBY", "GIT_", "BASH_", "JAVA_", "_JAVA", "SECRET_BROKER_")
_STEERING_NAMES: Final = frozenset(
    {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "LC_ALL", "TERM", "TMPDIR", "TEMP", "TMP", "ENV", "IFS", "SHELL",
        "PAGER", "EDITOR", "VISUAL", "BROWSER", "NODE_OPTIONS", "JDK_JAVA_OPTIONS", "SSL_CERT_FILE", "SSL_CERT_DIR",
        "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy", "SYSTEMROOT", "PATHEXT",
        "OPENSSL_CONF", "OPENSSL_MODULES", "SSLKEYLOGFILE", "GCONV_PATH", "NODE_PATH", "NODE_EXTRA_CA_CERTS", "ZDOTDIR",
        "CLASSPATH", "MAKEFLAGS", "CURL_HOME", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "PS4",
        "PROMPT_COMMAND",
    }
)  # fmt: skip
_STEERING_KINDS: Final = re.compile(r"(?:.*_)?(?:PAGER|EDITOR|BROWSER|ASKPASS|LESSOPEN|LESSCLOSE|PROXY)", re.IGNORECASE)
"""Variables that make a program run, load or ask something else: no secret stands in one unless a pattern says so."""


class _Pattern(Struct, frozen=True):
    text: str
    bindings: tuple[tuple[str, NamePattern], ...]
    words: tuple[str, ...]
    program: str

    def covers(self, argv: Sequence[str], references: Mapping[str, str]) -> bool:
        return _cover(self.words, argv) and all(self._binds(*each) for each in references.items())

    def _binds(self, variable: str, name: str) -> bool:
        if self.bindings:
            return any(variable == bound and pattern.matches(name) for bound, pattern in self.bindings)
        is_steering = variable in _STEERING_NAMES or variable.startswith(_STEERING)
        return not is_steering and _STEERING_KINDS.fullmatch(variable) is None


class AllowedCommands:
    """Patterns of commands.

    A pattern is written as in a shell and split into words. Each word must be the argument in its place; a `*` within
    it stands for any characters; a last word `**` stands for any further arguments. Words like
    `GH_TOKEN=secret://github.*` before the program say which secrets the command may have, and in which variables;
    without any it may have every secret of the run, in any variable that does not steer what programs do. The program
    is looked up once, when the server starts, so that what stands in the working folder, or in a changed PATH, is never
    what runs.

    Args:
        patterns: what the operator allows.

    Raises:
        InvalidRequest: if a pattern cannot be meant, or its program is not found.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        self._patterns = [_read(pattern) for pattern in patterns]

    @property
    def described(self) -> str:
        """The patterns, as a model reads them."""
        return "; ".join(pattern.text for pattern in self._patterns)

    def resolve(self, argv: Sequence[str], references: Mapping[str, str]) -> str | None:
        """The program to start.

        Args:
            argv: the argument list.
            references: the names of the secrets that it is to have, by variable.

        Returns:
            Its path; None if no pattern covers it.
        """
        found = (pattern.program for pattern in self._patterns if pattern.covers(argv, references))
        return next(found, None)


def _read(pattern: str) -> _Pattern:
    try:
        words = shlex.split(pattern)
    except ValueError:
        raise InvalidRequest("--allow-command has a quotation that is not closed") from None
    bindings = []
    while words and (found := _BINDING.fullmatch(words[0])):
        bindings.append((found[1], _name_pattern(found[2])))
        words = words[1:]
    if not words or "*" in words[0]:
        raise InvalidRequest("--allow-command names one program, such as 'gh pr *' or 'T=secret://a.b gh **'")
    return _Pattern(" ".join(pattern.split()), tuple(bindings), tuple(words), _program(words[0]))


def _name_pattern(text: str) -> NamePattern:
    try:
        return NamePattern(text)
    except WireError as error:
        raise InvalidRequest(f"--allow-command: {error}") from None


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise InvalidRequest(f"--allow-command names {name}, and there is no such program to execute")
    return str(Path(found).absolute())


def _cover(words: Sequence[str], argv: Sequence[str]) -> bool:
    if words[-1] == ANY_MORE:
        words, argv = words[:-1], argv[: len(words) - 1]
    return len(words) == len(argv) and all(map(_is_covered, words, argv))


def _is_covered(word: str, argument: str) -> bool:
    first, *more = re.split(r"\*+", word)
    if not more:
        return word == argument
    *middle, last = more
    at, end = len(first), len(argument) - len(last)
    if at > end or not argument.startswith(first) or not argument.endswith(last):
        return False
    for part in middle:  # the first place is as good as any, so nothing is tried twice, however long the argument is
        found = argument.find(part, at, end)
        if found < 0:
            return False
        at = found + len(part)
    return True
