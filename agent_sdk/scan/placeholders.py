"""What stands where a secret would and is none: templates, references, examples, words."""

import math
import re
from collections import Counter
from typing import Final

_TEMPLATE: Final = re.compile(
    rb"\$\{|\$\(|\A\$[A-Za-z_]\w*\Z|\{\{|\}\}|\{%|<%|%\(|%[A-Z_]+%|\{[A-Za-z_.0-9\[\]()'\"]*\}|<[^<>]{1,64}>|\.\.\.|\xe2\x80\xa6|\*{3}|#\{"
)
_REFERENCE: Final = re.compile(
    rb"(?:secret|op|connect|vault|local|env|aws-sm|aws-ssm|exec|ref\+\w+|keyring|file|gcp-?sm|projects)://",
    re.IGNORECASE,
)
_POINTER: Final = re.compile(
    rb"(?i:arn:aws|!vault|!ref|!sub|\$ansible_vault|enc\[|sops:|ENC\[AES|process\.env|os\.environ|os\.getenv|env\(|getenv|"
    rb"secrets?\.|vars?\.|var\.|local\.|data\.|module\.|self\.|this\.|config\.|settings\.|args\.|opts?\.|options\.|"
    rb"params\.|request\.|projects/)"
)
_HASHED: Final = re.compile(
    rb"\$(?:2[abxy]?|argon2\w*|[156]|scrypt|y|pbkdf2[\w-]*)\$|\{(?:S?SHA|CRYPT|MD5|SMD5)[\d]*\}|pbkdf2|scrypt:|sha\d+[$:-]|md5:"
)
_FILLER: Final = re.compile(
    rb"x{4,}|0{6,}|12345678|abcdefgh|(.)\1{5,}|redacted|placeholder|change_?-?me|change_?-?it|replace_?-?(?:me|this|with)|"
    rb"example|dummy|\byour|your[_-]|my[_-]?(?:secret|password|token|api|key)|insert[_-]|todo|fixme|not[_-]?a?[_-]?(?:real|secret)|"
    rb"(?:some|any|a|the|test|fake|mock|sample|default)[_-]?(?:secret|password|passwd|token|api|key|value|string|credential)|"
    rb"^(?:test|fake|mock|sample)|canary|hunter2|s3cr3t|sup[e3]r-?_?s[e3]cr[e3]t|correct-?horse|lorem|foo-?bar|deadbeef",
    re.IGNORECASE,
)
_COMMON: Final = frozenset(
    (
        b"password passwd pass pwd secret secrets token key apikey admin root user username postgres mysql mongo "
        b"mongodb redis guest rabbitmq minio minioadmin elastic none null nil undefined true false yes no test "
        b"testing tester example empty unset required optional string str bytes text value any default basic "
        b"bearer hidden private public database letmein welcome qwerty enabled disabled prompt ask auto file "
        b"environment env keyring plain plaintext password1 password123 admin123 test123 test1234 secret123 "
        b"pass123 passw0rd p@ssw0rd p@ssword changeit neo4j sa vagrant docker ansible oracle kafka grafana "
        b"jenkins nobody"
    ).split()
)
EXAMPLES: Final = frozenset(
    {
        b"AKIAIOSFODNN7EXAMPLE",
        b"AKIAI44QH8DHBEXAMPLE",
        b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        b"je7MtGbClwBF/2Zp9Utk/h3yCo8nvbEXAMPLEKEY",
        b"Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",
        b"C2y6yDjf5/R+ob0N8A7Cgv30VRDJIWEHLM+4QDU5DE2nQ9nDuVTqobD4b8mGGyPMbIZnqyMsEcaGQy67XIw/Jw==",
        b"sk_test_4eC39HqLyjWDarjtT1zdp7dc",
        b"sk_test_BQokikJOvBiI2HlWgH4olfQ2",
        b"ghp_16C7e42F292c6912E7710c838347Ae178B4a",
        b"TESTING-ASSERTION",
    }
)
"""Keys that vendors' own documents show: AWS, the storage emulators of Azure and Cosmos DB, Stripe, GitHub."""
_WORDS: Final = re.compile(rb"[A-Za-z]?[a-z]*|[A-Z]+|\d{1,3}|v\d+|[a-z]{1,3}\d{1,3}|[A-Z]{1,3}\d{1,3}")
_CAMEL: Final = re.compile(rb"[A-Za-z][a-z]++(?:[A-Z][a-z]++|[A-Z]{1,4}(?=[A-Z_\d]|\Z)|\d{1,2}(?!\d))*+")
_PARTS: Final = re.compile(rb"[_.\-/:@ ]+")


def is_placeholder(value: bytes) -> bool:
    """Whether a value is a template, a reference, a hash, an example or a common word, and so no secret.

    Args:
        value: what stands where a secret would.
    """
    return (
        value in EXAMPLES
        or value.lower() in _COMMON
        or _TEMPLATE.search(value) is not None
        or _REFERENCE.match(value) is not None
        or _POINTER.match(value) is not None
        or _HASHED.match(value) is not None
        or _FILLER.search(value) is not None
    )


def is_filler(key: bytes) -> bool:
    """Whether a key of a documented form is an example: too regular to have been drawn at random.

    Args:
        key: all of it, with its prefix.
    """
    if key in EXAMPLES or b"EXAMPLE" in key.upper():
        return True
    body = re.split(rb"[_-]", key)[-1]
    return _REGULAR.search(key) is not None or (len(body) >= 16 and entropy(body) < 2.5)


_REGULAR: Final = re.compile(
    rb"[xX]{6,}|(.)\1{7,}|12345678|abcdefgh|ABCDEFGH|(?i:your[_-]|placeholder|redacted|replace[_-]?me|changeme|fake|dummy)"
    rb"|\.\.\.|\*{3}|\$\{|\{\{"
)


def is_worded(value: bytes) -> bool:
    """Whether a value reads as words: an identifier, a path, a setting; drawn at random it would not.

    Args:
        value: a text without line breaks.
    """
    parts = [part for part in _PARTS.split(value) if part]
    return all(_WORDS.fullmatch(part) or _is_camel(part) for part in parts)


def _is_camel(part: bytes) -> bool:
    """Whether capitals begin words in it; drawn at random there would be more of them."""
    capitals = sum(65 <= c <= 90 for c in part)
    return _CAMEL.fullmatch(part) is not None and len(part) >= 3 * capitals


def entropy(value: bytes) -> float:
    """Shannon entropy of a value's bytes, in bits a byte."""
    size = len(value)
    return -sum(count / size * math.log2(count / size) for count in Counter(value).values()) if size else 0.0
