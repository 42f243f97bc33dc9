"""Files with one secret each, made anew from a seed: keys where people leave them."""

import base64
import json
import string
from collections.abc import Iterator

from scan_keys import FORMED, NAMED
from scan_maker import ALNUM, Maker, Sample

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
