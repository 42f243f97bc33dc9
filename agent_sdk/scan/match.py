"""What detection finds in a text: where, and of which kind; never the value itself."""

from typing import NamedTuple


class Match(NamedTuple):
    """A plaintext secret.

    Args:
        kind: a stable name such as `github-token`; `agent_sdk.scan.kinds` describes it.
        start: where the value begins in the text, in bytes.
        end: where it ends.
        is_specific: whether it has a documented form of its own; a match that was judged by its name alone gives way.
    """

    kind: str
    start: int
    end: int
    is_specific: bool
