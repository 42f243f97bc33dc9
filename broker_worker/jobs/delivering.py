"""Getting one notice to one target: an HTTP request to an address of the operator's, or a program of the operator's."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from broker_worker.core.errors import SetupError
from broker_worker.core.notifications import COMMAND_KIND, MAX_URL, NotificationTarget, check_target_url, is_loopback
from broker_worker.jobs.functions import JobFailedError
from broker_worker.jobs.messages import MESSAGES, Message, notice_json, webhook_message
from broker_worker.jobs.payloads import ApprovalNotice
from broker_worker.private_files import read_private

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 10.0
COMMAND_SECONDS = 10.0
_MAX_WAIT = 300.0
_FROM_ENVIRONMENT = ("DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "WAYLAND_DISPLAY", "XDG_RUNTIME_DIR", "XAUTHORITY")
"""What a desktop's notification programs need to find the desktop; nothing else is handed on."""
_PATH = "/usr/local/bin:/usr/bin:/bin"


def deliver(target: NotificationTarget, notice: ApprovalNotice, environ: Mapping[str, str], now: int) -> None:
    """Tell one target.

    Args:
        target: whom.
        notice: what.
        environ: where addresses and keys may stand.
        now: the time, ms since the epoch.

    Raises:
        JobFailedError: if it was not told; neither an address nor an answer is repeated.
    """
    if target.kind == COMMAND_KIND:
        _run(target.command, notice_json(notice), environ)
        return
    url = _address(target, environ)
    if target.kind == "webhook":
        message = webhook_message(notice, now, _secret(target, environ))
    else:
        message = MESSAGES[target.kind](notice, now)
    _post(url, message)


def _address(target: NotificationTarget, environ: Mapping[str, str]) -> str:
    if target.url_file is not None:
        try:
            raw = read_private(Path(target.url_file), "the address", MAX_URL + 1, hint="chmod 600")
        except SetupError:
            raise JobFailedError("no_address") from None
        text = raw.decode("ascii", "replace").strip()
    else:
        text = (target.url or environ.get(target.url_env or "", "")).strip()
    try:
        return check_target_url(text)
    except ValueError:
        raise JobFailedError("bad_address" if text else "no_address") from None


def _secret(target: NotificationTarget, environ: Mapping[str, str]) -> bytes | None:
    """The key of a webhook's signature; a target that asks for one is never told without."""
    if target.secret_env is None:
        return None
    text = environ.get(target.secret_env, "")
    if not text:
        raise JobFailedError("no_secret")
    return text.encode("utf-8", "surrogateescape")


def _post(url: str, message: Message) -> None:
    """Post once. Redirects are not followed: the address is the operator's to choose, not a server's."""
    problem = ""
    after = None
    try:
        timeout = httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS)
        ours = is_loopback(urlsplit(url).hostname or "")
        with (
            httpx.Client(timeout=timeout, follow_redirects=False, trust_env=not ours) as client,
            client.stream("POST", url, content=message.body, headers=dict(message.headers)) as response,
        ):
            if not response.is_success:
                problem = f"http_{response.status_code}"
                after = _retry_after(response)
    except httpx.TimeoutException:
        problem = "timeout"
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError):
        problem = "unreachable"
    if problem:  # raised out here, so that no context keeps the address
        raise JobFailedError(problem, after=after)


def _retry_after(response: httpx.Response) -> float | None:
    """How long the server asks to wait, seconds (RFC 9110, section 10.2.3); dates are not read."""
    text = response.headers.get("Retry-After", "")
    return min(float(text), _MAX_WAIT) if text.isascii() and text.isdigit() and len(text) < 9 else None


def _run(command: tuple[str, ...], stdin: bytes, environ: Mapping[str, str]) -> None:
    """Run a program with fixed arguments; what it is about comes on its standard input."""
    scrubbed = {"PATH": _PATH, "LANG": "C.UTF-8", **{key: environ[key] for key in _FROM_ENVIRONMENT if key in environ}}
    try:
        process = subprocess.Popen(  # noqa: S603  # the operator's own words; nothing of an agent's is among them
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=scrubbed,
            cwd=Path(command[0]).anchor,
            start_new_session=True,
        )
    except OSError:
        raise JobFailedError("not_started") from None
    with process:
        try:
            process.communicate(stdin, timeout=COMMAND_SECONDS)
        except subprocess.TimeoutExpired:
            raise JobFailedError("timeout") from None
        finally:
            _end(process)
    if process.returncode != 0:
        raise JobFailedError(f"exit_{process.returncode}")


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the program and all that it started, if it still runs."""
    if process.poll() is not None:
        return
    if sys.platform == "win32":
        process.kill()
        return
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
