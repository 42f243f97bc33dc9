"""What a corpus for the scanner is made of: files, and a maker that draws keys from a seed.

Every key is drawn at random here and opens nothing.
"""

import base64
import json
import random
import string
import zlib
from dataclasses import dataclass

from agent_sdk.scan.checks import base62_checksum

LETTERS, DIGITS = string.ascii_letters, string.digits
ALNUM, HEX = LETTERS + DIGITS, "0123456789abcdef"
URLSAFE = ALNUM + "-_"


@dataclass(frozen=True, slots=True)
class Sample:
    """A file of the corpus.

    Args:
        name: its name.
        text: its content.
        value: the secret in it; empty if it holds none.
        kind: the secret's kind.
    """

    name: str
    text: str
    value: str = ""
    kind: str = ""


class Maker:
    """Draws keys and files.

    Args:
        seed: the same seed makes the same corpus.
    """

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    def some(self, letters: str, count: int) -> str:
        """A text of so many of these characters."""
        return "".join(self.random.choice(letters) for _ in range(count))

    def checked(self, prefix: str) -> str:
        """A token with the checksum of GitHub's and npm's."""
        body = self.some(ALNUM, 30)
        return f"{prefix}{body}{base62_checksum(body.encode()).decode()}"

    def encoded(self, value: object) -> str:
        """JSON in base64url, as a part of a JSON web token."""
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    def jwt(self) -> str:
        """A signed token of nobody."""
        claims = {"sub": self.some(HEX, 12), "iat": self.random.randrange(10**9), "role": "service_role"}
        return f"{self.encoded({'alg': 'HS256', 'typ': 'JWT'})}.{self.encoded(claims)}.{self.some(URLSAFE, 43)}"

    def age(self) -> str:
        """A key with the checksum of Bech32 (BIP 173)."""
        data = [self.random.randrange(32) for _ in range(52)]
        human = "age-secret-key-"
        values = [ord(c) >> 5 for c in human] + [0] + [ord(c) & 31 for c in human] + data + [0] * 6
        sum_ = 1
        for value in values:
            top, sum_ = sum_ >> 25, (sum_ & 0x1FFFFFF) << 5 ^ value
            for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
                sum_ ^= generator if top >> bit & 1 else 0
        data += [(sum_ ^ 1) >> 5 * (5 - at) & 31 for at in range(6)]
        return (human + "1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[each] for each in data)).upper()

    def pem(self, label: str = "RSA PRIVATE KEY") -> str:
        """A block that looks like a private key and is none."""
        body = "\n".join(self.some(ALNUM + "+/", 64) for _ in range(6))
        return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----"

    def password(self) -> str:
        """What a password manager would draw."""
        letters = ALNUM + "!#%^*_-+"
        return self.some(LETTERS, 1) + self.some(letters, self.random.randint(10, 20)) + self.some(DIGITS, 2)

    def grafana(self) -> str:
        """A token with Grafana's checksum."""
        body = self.some(ALNUM, 32)
        return f"glsa_{body}_{zlib.crc32(body.encode()):08x}"
