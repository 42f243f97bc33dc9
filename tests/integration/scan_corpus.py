"""A corpus for the scanner, made anew from a seed: keys of documented forms in files, and files that hold none.

Every key is drawn at random here and opens nothing.
"""

# ruff: noqa: E501  # each file of the corpus is one text, and reads best on one line

import base64
import hashlib
import json
import random
import string
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
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


Draw = Callable[[Maker], str]
FORMED: Mapping[str, tuple[Draw, ...]] = {
    "openai-key": (
        lambda m: f"sk-proj-{m.some(URLSAFE, 74)}T3BlbkFJ{m.some(URLSAFE, 74)}",
        lambda m: f"sk-svcacct-{m.some(URLSAFE, 58)}T3BlbkFJ{m.some(URLSAFE, 58)}",
        lambda m: f"sk-{m.some(ALNUM, 20)}T3BlbkFJ{m.some(ALNUM, 20)}",
    ),
    "anthropic-key": (
        lambda m: f"sk-ant-api03-{m.some(URLSAFE, 93)}AA",
        lambda m: f"sk-ant-admin01-{m.some(URLSAFE, 93)}AA",
    ),
    "openrouter-key": (lambda m: f"sk-or-v1-{m.some(HEX, 64)}",),
    "github-token": (
        *(lambda m, p=p: m.checked(p) for p in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
        lambda m: f"github_pat_{m.some(ALNUM, 22)}_{m.some(ALNUM, 59)}",
    ),
    "gitlab-token": (
        lambda m: f"glpat-{m.some(URLSAFE, 20)}",
        lambda m: f"glpat-{m.some(URLSAFE, 27)}.01.{m.some(HEX, 9)}",
        lambda m: f"glrt-{m.some(URLSAFE, 20)}",
        lambda m: f"gldt-{m.some(URLSAFE, 20)}",
    ),
    "aws-access-key-id": (lambda m: f"AKIA{m.some('ABCDEFGHIJKLMNOPQRSTUVWXYZ234567', 16)}",),
    "google-api-key": (lambda m: f"AIza{m.some(URLSAFE, 34)}{m.some(ALNUM, 1)}",),
    "google-oauth-secret": (lambda m: f"GOCSPX-{m.some(URLSAFE, 27)}{m.some(ALNUM, 1)}",),
    "slack-token": (
        lambda m: f"xoxb-{m.some(DIGITS, 12)}-{m.some(DIGITS, 13)}-{m.some(ALNUM, 24)}",
        lambda m: f"xoxp-{m.some(DIGITS, 12)}-{m.some(DIGITS, 12)}-{m.some(DIGITS, 13)}-{m.some(HEX, 32)}",
        lambda m: f"xapp-1-A{m.some(string.ascii_uppercase + DIGITS, 10)}-{m.some(DIGITS, 13)}-{m.some(HEX, 64)}",
    ),
    "stripe-key": (lambda m: f"sk_live_{m.some(ALNUM, 24)}", lambda m: f"rk_live_{m.some(ALNUM, 99)}"),
    "webhook-secret": (lambda m: f"whsec_{m.some(ALNUM, 32)}",),
    "twilio-key": (lambda m: f"SK{m.some(HEX, 32)}",),
    "sendgrid-key": (lambda m: f"SG.{m.some(URLSAFE, 22)}.{m.some(URLSAFE, 42)}{m.some(ALNUM, 1)}",),
    "npm-token": (lambda m: m.checked("npm_"),),
    "pypi-token": (lambda m: f"pypi-AgEIcHlwaS5vcmc{m.some(URLSAFE, 130)}",),
    "digitalocean-token": (lambda m: f"dop_v1_{m.some(HEX, 64)}",),
    "hugging-face-token": (lambda m: f"hf_{m.some(LETTERS, 34)}",),
    "telegram-token": (lambda m: f"{m.random.randrange(10**9, 10**10)}:AA{m.some(URLSAFE, 32)}{m.some(ALNUM, 1)}",),
    "discord-token": (
        lambda m: (
            f"M{base64.b64encode(str(m.random.randrange(10**17, 10**18)).encode()).decode()[1:24]}."
            f"{m.some(ALNUM, 6)}.{m.some(ALNUM, 38)}"
        ),
    ),
    "jwt": (lambda m: m.jwt(),),
    "age-key": (lambda m: m.age(),),
    "onepassword-token": (
        lambda m: f"ops_{m.encoded({'signInAddress': 'a.1password.com', 'key': m.some(ALNUM, 200)})}",
    ),
    "vault-token": (lambda m: f"hvs.{m.some(ALNUM, 95)}", lambda m: f"hvb.{m.some(ALNUM, 140)}"),
    "vercel-token": (lambda m: f"vcp_{m.some(ALNUM, 56)}",),
    "supabase-key": (lambda m: f"sb_secret_{m.some(ALNUM, 31)}", lambda m: f"sbp_{m.some(HEX, 40)}"),
    "databricks-token": (lambda m: f"dapi{m.some(HEX, 32)}", lambda m: f"dapi{m.some(HEX, 32)}-2"),
    "linear-key": (lambda m: f"lin_api_{m.some(ALNUM, 40)}",),
    "notion-token": (lambda m: f"ntn_{m.some(ALNUM, 46)}", lambda m: f"secret_{m.some(ALNUM, 43)}"),
    "mailgun-key": (lambda m: f"key-{m.some(HEX, 32)}",),
    "cloudflare-token": (lambda m: f"cfut_{m.some(ALNUM, 40)}{m.some(HEX, 8)}",),
    "heroku-key": (lambda m: f"HRKU-AA{m.some(ALNUM, 58)}",),
    "shopify-token": (lambda m: f"shpat_{m.some(HEX, 32)}", lambda m: f"shpss_{m.some(HEX, 32)}"),
    "atlassian-token": (lambda m: f"ATATT3xFfGF0{m.some(URLSAFE, 170)}={m.some('0123456789ABCDEF', 8)}",),
    "docker-token": (lambda m: f"dckr_pat_{m.some(ALNUM, 27)}",),
    "azure-client-secret": (lambda m: f"{m.some(ALNUM, 3)}8Q~{m.some(ALNUM, 34)}",),
    "grafana-token": (lambda m: m.grafana(),),
    "groq-key": (lambda m: f"gsk_{m.some(ALNUM, 52)}",),
    "postman-key": (lambda m: f"PMAK-{m.some(HEX, 24)}-{m.some(HEX, 34)}",),
    "doppler-token": (lambda m: f"dp.pt.{m.some(ALNUM, 43)}",),
    "terraform-token": (lambda m: f"{m.some(ALNUM, 14)}.atlasv1.{m.some(ALNUM, 67)}",),
    "secret-broker-key": (lambda m: f"SECRET-BROKER-KEY-1:{m.some(URLSAFE, 43)}",),
}
"""Keys with a form of their own, by kind."""

NAMED: Mapping[str, tuple[tuple[str, Draw], ...]] = {
    "password": tuple(
        (name, lambda m: m.password()) for name in ("DB_PASSWORD", "adminPassword", "smtp_passwd", "passphrase")
    ),
    "generic-secret": (
        ("SESSION_SECRET", lambda m: m.some(HEX, 64)),
        ("api_key", lambda m: m.some(ALNUM, 32)),
        ("clientSecret", lambda m: m.some(ALNUM + "+/", 40)),
        ("AUTH_TOKEN", lambda m: m.some(ALNUM, 24)),
        ("ENCRYPTION_KEY", lambda m: base64.b64encode(m.some(ALNUM, 32).encode()).decode()),
        ("refresh_token", lambda m: m.some(URLSAFE, 48)),
    ),
    "aws-secret-access-key": (("AWS_SECRET_ACCESS_KEY", lambda m: m.some(ALNUM + "/+", 40)),),
    "twilio-auth-token": (("TWILIO_AUTH_TOKEN", lambda m: m.some(HEX, 32)),),
    "datadog-key": (("DD_API_KEY", lambda m: m.some(HEX, 32)),),
    "heroku-key": (("HEROKU_API_KEY", lambda m: str(uuid.UUID(int=m.random.getrandbits(128)))),),
    "azure-storage-key": (("AccountKey", lambda m: m.some(ALNUM + "+/", 86) + "=="),),
}
"""Keys that are known by their names, by kind."""

CONTEXTS: tuple[tuple[str, str], ...] = (
    (".env", "# settings\nDEBUG=1\n{name}={value}\nPORT=8080\n"),
    (".env.production", 'export {name}="{value}"\r\nLEVEL=info\r\n'),
    ("config.yaml", "server:\n  port: 80\n  {name}: {value}\n"),
    ("values.yml", 'app:\n  {name}: "{value}" # rotate me\n'),
    ("settings.toml", '[main]\nretries = 3\n{name} = "{value}"\n'),
    ("appsettings.json", '{{\n  "debug": false,\n  "{name}": "{value}"\n}}\n'),
    ("app.properties", "spring.profile=prod\n{name}={value}\n"),
    ("app.ini", "[main]\n{name} = {value}\n"),
    ("prod.tfvars", 'region = "eu-west-1"\n{name} = "{value}"\n'),
    ("client.py", 'import os\n\n{name} = "{value}"\nclient = Client({name})\n'),
    ("client.ts", "const options = {{\n  {name}: '{value}',\n  timeout: 30,\n}};\n"),
    ("main.go", 'const {name} = "{value}"\n'),
    (".bash_history", "cd app\nexport {name}={value}\n./run.sh\n"),
    (".zsh_history", ": 1700000000:0;ls\n: 1700000001:0;{name}={value} ./run.sh\n"),
    ("fish_history", "- cmd: set -x {name}={value}\n  when: 1700000000\n"),
    ("fish_history", "- cmd: set -gx {name} {value}\n  when: 1700000000\n"),
    (".bash_history", "aws configure set {name} {value}\n"),
    ("deployment.yaml", "env:\n- name: {name}\n  value: {value}\n- name: LEVEL\n  value: info\n"),
    ("task.json", '{{"environment": [{{"name": "{name}", "value": "{value}"}}]}}\n'),
    ("web.config", '<appSettings>\n  <add key="{name}" value="{value}"/>\n</appSettings>\n'),
    ("Dockerfile", "FROM python:3.12\nENV {name}={value}\n"),
    ("notebook.ipynb", '{{"cells": [{{"source": ["import os\\n", "{name} = \\"{value}\\"\\n"]}}]}}\n'),
    ("deploy.sh", '#!/bin/sh\nset -e\n{name}="{value}" ./deploy\n'),
    ("pom.xml", "<settings>\n  <{name}>{value}</{name}>\n</settings>\n"),
)
"""Where a value stands with its name."""


def shaped(m: Maker) -> Iterator[Sample]:
    """Secrets that are told by what they stand in."""
    word, password = m.some(string.ascii_lowercase, 8), m.password().replace("#", "x").replace("%", "y")
    for scheme in ("postgres", "mysql", "mongodb+srv", "redis", "amqps"):
        text = f"DATABASE_URL={scheme}://{word}:{password}@db.internal:5432/app\n"
        yield Sample(".env", text, password, "database-url")
    yield Sample(
        "config", f'[remote "origin"]\n\turl = https://{word}:{password}@git.internal/a.git\n', password, "url-password"
    )
    basic = base64.b64encode(f"{word}:{password}".encode()).decode()
    yield Sample(".bash_history", f"curl -H 'Authorization: Basic {basic}' https://api.internal\n", basic, "basic-auth")
    yield Sample("config.json", f'{{"auths": {{"registry": {{"auth": "{basic}"}}}}}}\n', basic, "docker-auth")
    token = m.some(ALNUM, 40)
    yield Sample(
        ".zsh_history", f': 1:0;curl -H "Authorization: Bearer {token}" https://x.internal\n', token, "bearer-token"
    )
    yield Sample("fish_history", f"- cmd: curl -u {word}:{password} https://x.internal\n", password, "command-password")
    yield Sample(".bash_history", f"mysql -h db -u root -p{password} app\n", password, "command-password")
    yield Sample(".netrc", f"machine api.internal login {word} password {password}\n", password, "netrc-password")
    yield Sample(".pgpass", f"db.internal:5432:app:{word}:{password}\n", password, "pgpass-password")
    block = m.pem()
    yield Sample("id_rsa", f"{block}\n", block, "private-key")
    inline = m.pem("PRIVATE KEY").replace("\n", "\\n")
    yield Sample(
        "service-account.json",
        json.dumps({"type": "service_account", "private_key": "X"}).replace("X", inline),
        inline,
        "private-key",
    )
    encoded = base64.b64encode(m.pem("PRIVATE KEY").encode()).decode()
    yield Sample(
        "kubeconfig", f"users:\n- name: a\n  user:\n    client-key-data: {encoded}\n", encoded, "encoded-private-key"
    )
    opaque = base64.b64encode(password.encode()).decode()
    yield Sample(
        "secret.yaml", f"apiVersion: v1\nkind: Secret\ndata:\n  admin: {opaque}\n", opaque, "kubernetes-secret"
    )
    hook = f"hooks.slack.com/services/T{m.some(ALNUM, 9)}/B{m.some(ALNUM, 9)}/{m.some(ALNUM, 24)}"
    yield Sample("alert.py", f'URL = "https://{hook}"\n', hook, "webhook-url")
    connection = f"Server=db;Database=app;User Id=sa;Password={password};Encrypt=true"
    yield Sample("Startup.cs", f'var c = "{connection}";\n', password, "password")


def positives(seed: int, rounds: int) -> list[Sample]:
    """Files with one secret each.

    Args:
        seed: of the corpus.
        rounds: how many of each form.
    """
    m = Maker(seed)
    found: list[Sample] = []
    for _ in range(rounds):
        for kind, draws in FORMED.items():
            for draw in draws:
                value = draw(m)
                file, form = m.random.choice(CONTEXTS)
                found.append(
                    Sample(
                        file,
                        form.format(name=m.random.choice(("VALUE", "apiKey", "TOKEN", "x")), value=value),
                        value,
                        kind,
                    )
                )
        for kind, pairs in NAMED.items():
            for name, draw in pairs:
                for file, form in m.random.sample(CONTEXTS, 6):
                    value = draw(m)
                    found.append(Sample(file, form.format(name=name, value=value), value, kind))
        found += shaped(m)
    return found


PLAIN: tuple[tuple[str, str], ...] = (
    (".env.example", "OPENAI_API_KEY=your-key-here\nDB_PASSWORD=changeme\nTOKEN=xxxxxxxxxxxxxxxxxxxx\nSECRET=\n"),
    (
        ".env",
        "API_KEY=${API_KEY}\nPASSWORD=secret://db.password\nTOKEN=op://Agents/OpenAI/credential\nKEY_FILE=/etc/app/key.pem\n",
    ),
    (
        "ci.yml",
        "env:\n  TOKEN: ${{ secrets.GITHUB_TOKEN }}\n  password: '{{ vault_password }}'\n  key: $CI_JOB_TOKEN\n",
    ),
    (
        "deployment.yaml",
        "env:\n- name: DB_PASSWORD\n  valueFrom:\n    secretKeyRef:\n      name: database-credentials-v2\n      key: password\n",
    ),
    (
        "main.tf",
        'resource "x" "y" {\n  password = var.db_password\n  token    = data.vault_generic_secret.app.data["token"]\n}\n',
    ),
    (
        "login.py",
        'def login(password: str, token: str | None = None) -> None:\n    secret = get_secret("db")\n    api_key = os.environ["API_KEY"]\n',
    ),
    (
        "form.ts",
        "const labels = { password: 'Enter your password', token: 'Token expired, please log in again' };\nconst passwordInput = document.querySelector('#password');\n",
    ),
    (
        "auth.go",
        'token := r.Header.Get("Authorization")\nif password == "" { return errors.New("password required") }\nsecretName := "projects/1/secrets/db-password/versions/2"\n',
    ),
    (
        "lexer.py",
        'TOKEN_PATTERN = re.compile(r"[a-z0-9_]{3,}")\nmax_tokens = 4096\ntokenizer = "cl100k_base"\nKEY_UP = "ArrowUp"\n',
    ),
    (
        "aws.md",
        "Use `AKIAIOSFODNN7EXAMPLE` and `wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY` in examples.\naws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n",
    ),
    (
        "db.md",
        "postgres://user:password@localhost/db or postgres://${USER}:${PASS}@host/db or redis://:<password>@host\n",
    ),
    ("users.sql", "CREATE TABLE users (id uuid primary key, password_hash text, api_key_id text, token_type text);\n"),
    (
        "shadow.yml",
        "password: $2b$12$EixZaYVK1fsbw1ZfbX3OXePaWxn96p36WQoeG6Lruj3vjPGga31lW\nadmin_password: '{SSHA}DkMTwBl+a/3DQTxCYEApdUtNXGgdUac3'\n",
    ),
    (
        "config.py",
        'SECRET_KEY_NAME = "django-secret-key"\nPASSWORD_RESET_TOKEN_EXPIRY = 3600\nTOKEN_URL = "https://auth.internal/oauth2/token"\nSECRET_BACKEND = "aws.SecretsManagerBackend"\n',
    ),
    (
        "readme.md",
        "Set `--token TOKEN` and `--password PASSWORD`; the password must have 12 characters, e.g. with a digit.\n",
    ),
    (
        "test_api.py",
        'client = Client(api_key="test-api-key", password="password123")\nassert token == "fake-token-1234"\nsecret = "my-secret"\n',
    ),
    (
        "stripe.js",
        "const key = 'pk_live_' + id; // publishable\nconst publishableKey = 'pk_test_51Habcdefghijklmnopqr';\n",
    ),
    (
        "i18n.json",
        '{"password": "Passwort", "forgot_password": "Passwort vergessen?", "token_expired": "Ihr Token ist abgelaufen (Code 42)"}\n',
    ),
    (
        "jwt.md",
        "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiIxMjM0NTY3ODkwIiwibmFtZSI6IkpvaG4gRG9lIiwiaWF0IjoxNTE2MjM5MDIyfQ.SflKxwRJSMeKKF2QT4fwpMeJf36POk6yJV_adQssw5c\n",
    ),
    ("known_hosts", "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl\n"),
    (
        "style.css",
        ".password-strength-meter { background: url(data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJ) }\n",
    ),
    ("helm.yaml", "existingSecret: my-app-secret-2\npasswordKey: admin-password\ntokenSecretRef:\n  name: token-v3\n"),
    (
        "keys.py",
        'cache_key = f"user:{user_id}:v2"\nprimary_key = "a1b2c3d4e5f6a7b8"\nsort_key = "2024-01-01T00:00:00Z#order"\n',
    ),
    (
        "compose.yml",
        "services:\n  db:\n    environment:\n      POSTGRES_PASSWORD: postgres\n      POSTGRES_PASSWORD_FILE: /run/secrets/db\n",
    ),
    (".npmrc", "//registry.npmjs.org/:_authToken=${NPM_TOKEN}\nregistry=https://registry.npmjs.org/\n"),
    (
        "pattern.py",
        'GITHUB = re.compile(r"ghp_[A-Za-z0-9]{36}")\nSTRIPE = r"sk_live_[0-9a-zA-Z]{24}"\nPEM = "-----BEGIN RSA PRIVATE KEY-----"\n',
    ),
    ("swift.swift", 'let keychainKey = "com.example.app.sessionToken"\nlet passwordField = UITextField()\n'),
    (
        "Program.cs",
        'var password = Configuration["Database:Password"];\nvar apiKey = Environment.GetEnvironmentVariable("API_KEY");\n',
    ),
)
"""Files that speak of secrets and hold none."""


def negatives(seed: int, rounds: int) -> list[Sample]:
    """Files without a secret.

    Args:
        seed: of the corpus.
        rounds: how many of each drawn form; the plain ones stand there once.
    """
    m = Maker(seed + 1)
    found = [Sample(name, text) for name, text in PLAIN]
    for _ in range(rounds):
        sha, digest = m.some(HEX, 40), hashlib.sha256(m.some(HEX, 8).encode()).hexdigest()
        whole = uuid.UUID(int=m.random.getrandbits(128))
        integrity = base64.b64encode(m.random.randbytes(64)).decode()
        image = base64.b64encode(m.random.randbytes(900)).decode()
        minified = ";".join(
            f"var {m.some(LETTERS, 2)}=function({m.some(LETTERS, 1)}){{return {m.some(LETTERS, 3)}.token}}"
            for _ in range(60)
        )
        body = m.checked("ghp_")
        found += [
            Sample(
                "package-lock.json",
                f'{{"node_modules/keygen": {{"resolved": "https://registry.npmjs.org/keygen/-/keygen-1.0.0.tgz", "integrity": "sha512-{integrity}"}}}}\n',
            ),
            Sample(
                "poetry.lock",
                f'[[package]]\nname = "secretstorage"\nfiles = [{{file = "a.whl", hash = "sha256:{digest}"}}]\n',
            ),
            Sample("Cargo.lock", f'[[package]]\nname = "tokenizers"\nchecksum = "{digest}"\n'),
            Sample("go.sum", f"github.com/a/token v1.2.3 h1:{base64.b64encode(m.random.randbytes(32)).decode()}\n"),
            Sample("CHANGELOG.md", f"- {sha[:7]} fix the token refresh ({sha})\n"),
            Sample(
                "fixture.json",
                f'{{"id": "{whole}", "request_id": "{m.some(HEX, 32)}", "etag": "{m.some(HEX, 32)}", "key_id": "{whole}"}}\n',
            ),
            Sample("bundle.min.js", f"!function(){{{minified}}}();//# {sha}\n"),
            Sample("page.html", f'<img alt="key" src="data:image/png;base64,{image}">\n'),
            Sample("out.ipynb", f'{{"cells": [{{"outputs": [{{"data": {{"image/png": "{image}"}}}}]}}]}}\n'),
            Sample(
                "app.log",
                f"2024-01-01 INFO token refreshed for user {whole} trace={m.some(HEX, 32)} key=user:{m.some(DIGITS, 6)}\n",
            ),
            Sample("cert.pem", m.pem("CERTIFICATE") + "\n"),
            Sample("id.pub", f"ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAAB{m.some(ALNUM + '+/', 340)} a@b\n"),
            Sample("encrypted.pem", m.pem("ENCRYPTED PRIVATE KEY") + "\n"),
            Sample("wrong.txt", f"a token that is damaged: {body[:-1]}{'a' if body[-1] != 'a' else 'b'}\n"),
            Sample("image.yaml", f"image: registry.internal/secret-store@sha256:{digest}\nchecksum/secret: {digest}\n"),
            Sample("Dockerfile", f"FROM python@sha256:{digest}\nARG TOKEN\nENV TOKEN=$TOKEN\n"),
            Sample(
                "schema.json",
                f'{{"password": {{"type": "string", "minLength": 8}}, "sha256": "{digest}", "public_key": "{m.some(ALNUM, 43)}"}}\n',
            ),
        ]
    return found
