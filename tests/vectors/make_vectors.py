"""Makes the vector files beside this script, or with `--check` says whether they are what it would make.

    python tests/vectors/make_vectors.py [--check]

Every seed and nonce is fixed, so the files come out the same each time. `wire_reference.py` holds a second,
independent reading of docs/protocol.md; nothing here imports the implementation.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vector_audit import audit_cases
from vector_messages import message_cases, padding_cases
from vector_names import keyname_cases, name_cases, pattern_cases
from vector_proofs import proof_cases, static_token_cases
from vector_sealing import certificate_cases, envelope_cases, key_cases
from vector_tokens import ANCHORS, token_cases
from wire_reference import Case, plain

_HERE = Path(__file__).parent
_FORM = (
    "Byte strings are {'hex': …} or, when long, {'runs': [[hex, times], …]}. `expect` is `ok`, or the stable code that "
    "the contract demands, a slash, and the reason that this implementation records; only the code binds another one."
)
FILES: dict[str, tuple[str, str, Callable[[], list[Case]]]] = {
    "names.json": ("Names", "Whether `text` is a canonical name of its `kind`.", name_cases),
    "patterns.json": ("Names", "Patterns over secret names, and what they cover.", pattern_cases),
    "keynames.json": ("Names on the queue", "`function(arguments)` is `value`.", keyname_cases),
    "messages.json": ("Messages", "`bytes` is the one encoding of `fields`, or is refused.", message_cases),
    "padding.json": ("Padding", "`padded` is the padding of `plaintext`, or is refused.", padding_cases),
    "keys.json": ("Keys of a direction", "Keys derived from seeds and from each other.", key_cases),
    "envelopes.json": (
        "Envelope",
        "`bytes`, found at `key_name`, opens with `key` to `plaintext`; a case without `key` fails before any key.",
        envelope_cases,
    ),
    "certificates.json": (
        "Session certificate",
        "`bytes` under the pinned `identity` at the time `now` (ms, with `skew`).",
        certificate_cases,
    ),
    "tokens.json": ("Identity token", "`token` under `anchors` at the time `now` (ms, with `skew`).", token_cases),
    "proofs.json": (
        "Proof of possession",
        "`proof` of who shows `token`, whose key is `run_public_key`, to one of the `audiences` at the time `now`.",
        proof_cases,
    ),
    "static_tokens.json": (
        "Static token",
        "`text` is what `entropy` makes, and what the broker keeps of it; or it is refused.",
        static_token_cases,
    ),
    "audit.json": (
        "Audit",
        "A `line` as it is read back, a chain of `lines` under the `identity`, or the `fields` of a stream entry.",
        audit_cases,
    ),
}


def text_of(file: str) -> str:
    """What a vector file must contain."""
    section, what, cases = FILES[file]
    head: dict[str, Any] = {"comment": f"{what} {_FORM}", "source": f'docs/protocol.md, "{section}"'}
    if file == "tokens.json":
        head["anchors"] = plain(ANCHORS)
    made = cases()
    names = [one["name"] for one in made]
    assert len(names) == len(set(names)), f"{file}: two cases have one name: {sorted(names)}"
    lines = ",\n".join(json.dumps(one) for one in made)
    return f'{json.dumps(head, indent=1)[:-2]},\n "cases": [\n{lines}\n]}}\n'


def main() -> int:
    """Write every file, or compare; 1 if a file differs."""
    check = "--check" in sys.argv[1:]
    differing = []
    for file in FILES:
        path, text = _HERE / file, text_of(file)
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        differing.append(file)
        if not check:
            path.write_text(text, encoding="utf-8")
    for file in differing:
        print(f"{file}: {'is not what this script makes' if check else 'written'}")  # noqa: T201  # a script's output
    return 1 if check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
