"""moto's server on 127.0.0.1, in this process, with faults put in its way and a count of what was asked."""

import io
import json
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest
from provider_conformance import CANARY, everything_said

from broker_worker.core.errors import ProviderError
from broker_worker.ports import Fetched
from broker_worker.providers.aws_client import AwsSettings
from broker_worker.providers.aws_parameter_store import ParameterStoreProvider
from broker_worker.providers.aws_secrets_manager import SecretsManagerProvider

if TYPE_CHECKING:  # moto reads a lot when it is loaded: only a process that runs such a test waits for it
    from botocore.loaders import Loader
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler
    from moto.secretsmanager.models import SecretsManagerBackend
    from moto.ssm.models import SimpleSystemManagerBackend
    from werkzeug.serving import BaseWSGIServer

SIMULATE = "SimulatePrincipalPolicy"
ACCOUNT, REGION = "123456789012", "eu-central-1"
_VARIABLES = ("AWS_PROFILE", "AWS_DEFAULT_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_SESSION_TOKEN")


@dataclass(frozen=True)
class Fault:
    """An answer in place of moto's.

    Args:
        code: AWS's error code; empty for `body` as it is.
        status: the HTTP status.
        headers: more headers.
        body: what is sent if there is no code.
        hangs: whether it comes only when the server stops, or with `release`.
        lost: whether moto does what was asked first, so that only its answer is lost.
    """

    code: str = ""
    status: int = 400
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    hangs: bool = False
    lost: bool = False

    def content(self, says: str) -> bytes:
        """The body; AWS's own text in it is `says`."""
        return json.dumps({"__type": self.code, "message": says}).encode() if self.code else self.body


class AwsServer:
    """A server that holds secrets and parameters.

    Args:
        says: the text of every error that is put in its way.
    """

    def __init__(self, says: str = "") -> None:
        self.asked: list[tuple[str, Mapping[str, Any]]] = []
        self.after: dict[str, Callable[[], None]] = {}
        """What happens once after the next answer to an action was made and before it is sent."""
        self.simulation: Callable[[str, str], bool] | None = None
        """Whether IAM says that an action is allowed on an ARN; None if IAM may not be asked for that."""
        self._says = says
        self._faults: dict[str, deque[Fault]] = defaultdict(deque)
        self._always: dict[str, Fault] = {}
        self._moto = _moto()
        self._one_at_a_time = threading.Lock()
        self._arrived = threading.Condition()
        self._stopping = threading.Event()
        self._server = _listen(self._answer)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.port}"

    def settings(self, timeout_seconds: float = 10) -> AwsSettings:
        """How a provider reaches it."""
        return AwsSettings(REGION, None, self.url, timeout_seconds)

    @property
    def secrets(self) -> "SecretsManagerBackend":
        """What Secrets Manager holds."""
        from moto.secretsmanager.models import secretsmanager_backends  # noqa: PLC0415  # as above

        return secretsmanager_backends[ACCOUNT][REGION]

    @property
    def parameters(self) -> "SimpleSystemManagerBackend":
        """What the Parameter Store holds."""
        from moto.ssm.models import ssm_backends  # noqa: PLC0415  # as above

        return ssm_backends[ACCOUNT][REGION]

    def add_secret(self, name: str, text: str | None = None, binary: str | None = None) -> str:
        """Store a secret; bytes are in base64, as in AWS's API. Returns its version's id."""
        self.secrets.create_secret(name, text, binary, None, None, None, None, [], False)
        return str(self.secrets.secrets[name].default_version_id)

    def add_parameter(self, name: str, value: str) -> None:
        """Store a version of a parameter."""
        self.parameters.put_parameter(name, "", value, "SecureString", "", "", True, [], "text", None, None)

    def fail(self, action: str, *faults: Fault) -> None:
        """Answer the next requests for an action so, each once; `*` for any."""
        self._faults[action] += faults

    def fail_always(self, action: str, fault: Fault) -> None:
        """Answer all requests for an action so; `*` for any."""
        self._always[action] = fault

    def allow(self, action: str) -> None:
        """Answer an action as moto does again."""
        self._always.pop(action)

    def count(self, action: str) -> int:
        """How often an action was asked for."""
        return sum(1 for asked, _ in self.asked if asked == action)

    def wait_for(self, action: str, count: int) -> None:
        """Wait until an action was asked for so often."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: self.count(action) >= count, 60)

    def release(self) -> None:
        """Let everything go that hangs."""
        self._stopping.set()

    def stop(self) -> None:
        """Stop and forget everything."""
        from moto.secretsmanager.models import secretsmanager_backends  # noqa: PLC0415  # as above
        from moto.ssm.models import ssm_backends  # noqa: PLC0415  # as above

        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        secretsmanager_backends.reset()
        ssm_backends.reset()

    def _answer(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        action = str(environ.get("HTTP_X_AMZ_TARGET", "")).partition(".")[2]
        length = int(environ.get("CONTENT_LENGTH") or 0)
        body = environ["wsgi.input"].read(length)
        environ["wsgi.input"] = io.BytesIO(body)
        is_query = str(environ.get("CONTENT_TYPE", "")).startswith("application/x-www-form-urlencoded")
        asked = parse_qs(body.decode()) if is_query else json.loads(body or b"{}")
        action = asked["Action"][0] if is_query else action
        with self._one_at_a_time:
            self.asked.append((action, asked))
            fault = _simulated(asked, self.simulation) if action == SIMULATE else self._fault(action)
        with self._arrived:
            self._arrived.notify_all()
        if fault is not None and not fault.lost:
            return self._send(fault, start_response)
        with self._one_at_a_time:  # moto checks and stores in two steps
            answer = list(self._moto(environ, start_response if fault is None else _ignore))
            _follow_labels(self.secrets)
            after = self.after.pop(action, None)
            if after is not None:
                after()
        return answer if fault is None else self._send(fault, start_response)

    def _fault(self, action: str) -> Fault | None:
        for key in (action, "*"):
            if self._faults[key]:
                return self._faults[key].popleft()
        return self._always.get(action) or self._always.get("*")

    def _send(self, fault: Fault, start_response: Any) -> Sequence[bytes]:
        if fault.hangs:
            self._stopping.wait(60)
        headers = {"Content-Type": "application/x-amz-json-1.1", **fault.headers}
        start_response(f"{fault.status} fault", list(headers.items()))
        return [fault.content(self._says)]


def _simulated(asked: Mapping[str, Sequence[str]], is_allowed: Callable[[str, str], bool] | None) -> Fault:
    """What IAM says, which moto does not know (API reference, SimulatePrincipalPolicy)."""
    if is_allowed is None:
        return Fault(status=403, body=b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>")
    actions = [values[0] for key, values in asked.items() if key.startswith("ActionNames.member.")]
    arns = [values[0] for key, values in asked.items() if key.startswith("ResourceArns.member.")]
    decided = {action: {arn: is_allowed(action, arn) for arn in arns} for action in actions}
    results = "".join(
        f"<member><EvalActionName>{action}</EvalActionName><EvalResourceName>{arns[0]}</EvalResourceName>"
        f"<EvalDecision>implicitDeny</EvalDecision><ResourceSpecificResults>{_each(found)}</ResourceSpecificResults>"
        "</member>"
        for action, found in decided.items()
    )
    answer = f"<IsTruncated>false</IsTruncated><EvaluationResults>{results}</EvaluationResults>"
    name = "SimulatePrincipalPolicy"
    body = f"<{name}Response><{name}Result>{answer}</{name}Result></{name}Response>"
    return Fault(status=200, headers={"Content-Type": "text/xml"}, body=body.encode())


def _each(found: Mapping[str, bool]) -> str:
    return "".join(
        f"<member><EvalResourceName>{arn}</EvalResourceName>"
        f"<EvalResourceDecision>{'allowed' if allowed else 'implicitDeny'}</EvalResourceDecision></member>"
        for arn, allowed in found.items()
    )


@cache
def _moto() -> "DomainDispatcherApplication":
    from moto.moto_server.werkzeug_app import (  # noqa: PLC0415  # as above
        DomainDispatcherApplication,
        create_backend_app,
    )

    return DomainDispatcherApplication(create_backend_app)


@cache
def _loader(data_path: str | None) -> "Loader":
    from botocore.loaders import create_loader  # noqa: PLC0415  # as above

    return create_loader(data_path)


@cache
def _quiet_handler() -> "type[MotoRequestHandler]":
    from moto.moto_server.werkzeug_app import MotoRequestHandler  # noqa: PLC0415  # as above

    class Quiet(MotoRequestHandler):
        def log(self, type: str, message: str, *args: object) -> None:  # noqa: A002  # werkzeug's name
            pass

    return Quiet


def _listen(application: Callable[[dict[str, Any], Any], Iterable[bytes]]) -> "BaseWSGIServer":
    from werkzeug.serving import make_server  # noqa: PLC0415  # as above

    return make_server("127.0.0.1", 0, application, threaded=True, request_handler=_quiet_handler())


def _ignore(*_: object) -> None:
    """Drop the head of an answer."""


def _follow_labels(backend: "SecretsManagerBackend") -> None:
    """Have the version labelled AWSCURRENT be the one that is read: moto forgets it when the label is moved."""
    secrets: Iterable[Any] = backend.secrets.values()
    for secret in secrets:
        current = [key for key, version in secret.versions.items() if "AWSCURRENT" in version["version_stages"]]
        secret.default_version_id = current[0] if current else None


@contextmanager
def aws_server(monkeypatch: pytest.MonkeyPatch, says: str = "") -> Iterator[AwsServer]:
    """A server, and an environment in which boto3 finds credentials for it and nothing of this host's."""
    for name in _VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "example")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setattr("botocore.session.create_loader", _loader)  # reads AWS's models once, not for every client
    server = AwsServer(says)
    try:
        yield server
    finally:
        server.stop()


class Turnable:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def answer_of(provider: SecretsManagerProvider | ParameterStoreProvider, ref: str) -> Fetched | ProviderError:
    """What comes of one reference, raised or not."""
    try:
        return (await provider.get_many([ref]))[ref]
    except ProviderError as error:
        return error


async def refusal_of(provider: SecretsManagerProvider | ParameterStoreProvider, ref: str) -> ProviderError:
    """Why a reference has no value; checks that nothing of AWS's own text is in it."""
    answer = await answer_of(provider, ref)
    assert isinstance(answer, ProviderError)
    assert CANARY not in everything_said(answer)
    assert CANARY not in answer.hint
    return answer
