"""Files that hold no secret and look as if they did, as they stand there or drawn anew."""

# ruff: noqa: E501  # each file of the corpus is one text, and reads best on one line

import base64
import hashlib
import uuid

from scan_maker import ALNUM, DIGITS, HEX, LETTERS, Maker, Sample

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
