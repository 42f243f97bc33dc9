"""Where this installation lives and which queue it uses: the few things that come from the environment."""

import os
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from broker_worker.core.errors import SetupError

OPERATOR_CHAIN = "operator"
"""The name under which operators' commands keep their audit chain, like a worker's; one process at a time."""
_QUEUE_SCHEMES = ("redis", "rediss", "unix")


class Settings(BaseSettings):
    """Settings of one installation, read from the environment; arguments win over it.

    Args:
        home: the folder with configuration, keys, vault, audit and state (`SECRET_BROKER_HOME`).
        redis_url: an external Redis or Valkey server (`REDIS_URL`); None for the embedded one. It may hold a
            password, so `repr` does not show it.
        ledger_url: the run ledger's database (`LEDGER_URL`), as SQLAlchemy writes it; None for a SQLite file.
    """

    model_config = SettingsConfigDict(
        env_prefix="SECRET_BROKER_",
        extra="ignore",
        frozen=True,
        populate_by_name=True,
        hide_input_in_errors=True,  # REDIS_URL may hold a password
    )

    home: Path = Field(default_factory=lambda: user_data_path("secret-broker"))
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL", repr=False)
    ledger_url: str | None = Field(default=None, validation_alias="LEDGER_URL", repr=False)

    @field_validator("home")
    @classmethod
    def _absolute(cls, home: Path) -> Path:
        return Path(os.path.abspath(home.expanduser()))  # noqa: PTH100  # resolve() would follow links

    @field_validator("redis_url")
    @classmethod
    def _known_scheme(cls, url: str | None) -> str | None:
        if not url:
            return None
        if urlsplit(url).scheme not in _QUEUE_SCHEMES:
            raise ValueError("expected a URL that begins with redis://, rediss:// or unix://")
        return url

    @classmethod
    def load(cls, home: Path | None = None) -> Self:
        """Read the environment.

        Args:
            home: the folder to use instead of the one that the environment names.

        Raises:
            SetupError: if a variable cannot be used; its content is not repeated.
        """
        try:
            return cls() if home is None else cls(home=home)
        except ValidationError as error:
            problems = "; ".join(
                f"{_variable(e['loc'])}: {e['msg'].removeprefix('Value error, ')}"
                for e in error.errors(include_input=False)
            )
        raise SetupError(f"the environment cannot be used: {problems}", hint="correct or unset the variable named")

    @property
    def config_dir(self) -> Path:
        """The operator's YAML files."""
        return self.home / "config"

    @property
    def keys_dir(self) -> Path:
        """Keys of the broker, the issuer, the queue and the vault; 0700, each file 0600."""
        return self.home / "keys"

    @property
    def audit_dir(self) -> Path:
        """The audit chains."""
        return self.home / "audit"

    @property
    def state_dir(self) -> Path:
        """What must outlive a queue that forgets: revocations, approvals that were used, what was read from vaults."""
        return self.home / "state"

    @property
    def vault_states_dir(self) -> Path:
        """What all workers know together of each vault: its budget, and why it is not asked."""
        return self.state_dir / "vaults"

    @property
    def revocations_file(self) -> Path:
        """The signed orders to refuse or to serve again."""
        return self.state_dir / "revocations.jsonl"

    @property
    def used_approvals_file(self) -> Path:
        """Which single-use approvals were used."""
        return self.state_dir / "used_approvals.jsonl"

    @property
    def writes_file(self) -> Path:
        """Which values were written."""
        return self.state_dir / "writes.jsonl"

    @property
    def leases_dir(self) -> Path:
        """What runs hold, a file a worker process."""
        return self.state_dir / "leases"

    @property
    def rotations_dir(self) -> Path:
        """How far rotations are, a file each."""
        return self.state_dir / "rotations"

    @property
    def settled_approvals_file(self) -> Path:
        """Which approvals' outcomes were recorded."""
        return self.state_dir / "settled_approvals.jsonl"

    @property
    def backups_dir(self) -> Path:
        """Sealed backups of env files whose values were moved into the vault."""
        return self.home / "backups"

    @property
    def sealed_cache_file(self) -> Path:
        """The sealed cache; its key is not in this folder."""
        return self.state_dir / "cache.sqlite3"

    @property
    def sealed_cache_key(self) -> Path:
        """The sealed cache's wrapped master key, unless broker.yaml says `key_file`."""
        return self.keys_dir / "cache.key"

    @property
    def ledger_address(self) -> str:
        """The run ledger's database URL."""
        return self.ledger_url or f"sqlite:///{self.home / 'ledger' / 'ledger.sqlite3'}"

    @property
    def vault_file(self) -> Path:
        """The local encrypted vault."""
        return self.home / "vault" / "local.vault"

    @property
    def run_dir(self) -> Path:
        """State of running processes: socket, data and log of the embedded server, process ids."""
        return self.home / "run"

    @property
    def socket_path(self) -> Path:
        """The unix socket of the embedded server."""
        return self.run_dir / "valkey.sock"

    @property
    def queue_address(self) -> str:
        """The queue's URL as it was given, or that of the embedded server without a user."""
        return self.redis_url or f"unix://{self.socket_path}"


def _variable(location: tuple[int | str, ...]) -> str:
    name = str(location[0]) if location else "the environment"
    return name if name.isupper() else f"SECRET_BROKER_{name.upper()}"
