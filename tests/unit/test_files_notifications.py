"""`notifications` in `broker.yaml`: every kind, every mistake with its line, and no address in any error."""

from pathlib import Path

import pytest

from broker_worker.core.errors import ConfigError
from broker_worker.core.notifications import NotificationTarget, check_target_url, is_loopback
from broker_worker.files.notifications import load_notifications, read_notifications
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

SECRET_URL = "https://hooks.slack.com/services/T0/B0/hunter2hunter2"


def read(text: str) -> tuple[NotificationTarget, ...]:
    """The targets of a file whose `notifications` is that text."""
    tree = parse_yaml(f"notifications: {text}".encode(), "broker.yaml")
    document = Section(tree, file="broker.yaml", origin="broker.yaml", what="top level")
    return read_notifications(document.get("notifications", private=True))


def test_without_a_section_nobody_is_told() -> None:
    """Neither is with an empty list."""
    assert read_notifications(None) == ()
    assert read("[]") == ()


@pytest.mark.parametrize("kind", ["slack", "discord", "ntfy", "webhook"])
def test_an_address_stands_in_the_file_a_variable_or_another_file(kind: str) -> None:
    """Exactly one of the three."""
    (one,) = read(f"[{{name: ops, kind: {kind}, url: '{SECRET_URL}', groups: [ops, alice]}}]")
    assert (one.name, one.kind, one.groups, one.url) == ("ops", kind, ("ops", "alice"), SECRET_URL)
    assert read(f"[{{name: a, kind: {kind}, url_env: SLACK_URL}}]")[0].url_env == "SLACK_URL"
    assert read(f"[{{name: a, kind: {kind}, url_file: /run/secrets/slack}}]")[0].url_file == "/run/secrets/slack"


def test_a_command_is_a_list_of_words() -> None:
    """The first is an absolute path."""
    (one,) = read("[{name: bell, kind: command, command: [/usr/bin/notify-send, An approval waits]}]")
    assert one.command == ("/usr/bin/notify-send", "An approval waits")


def test_an_address_is_not_shown() -> None:
    """It often is a webhook's only password."""
    assert "hunter2" not in repr(read(f"[{{name: ops, kind: slack, url: '{SECRET_URL}'}}]"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("ops", "expected a list"),
        ("[{kind: slack, url_env: A}]", "the key `name` is missing"),
        ("[{name: ops, url_env: A}]", "the key `kind` is missing"),
        ("[{name: Ops, kind: slack, url_env: A}]", "canonical"),
        ("[{name: ops, kind: telegram, url_env: A}]", "`slack` or"),
        ("[{name: ops, kind: slack}]", "exactly one of `url`, `url_env`, `url_file`, found 0"),
        ("[{name: ops, kind: slack, url_env: A, url_file: /b}]", "found 2"),
        ("[{name: ops, kind: slack, command: [/bin/true]}]", "`command` does not belong to kind `slack`"),
        ("[{name: ops, kind: command, url_env: A}]", "`url_env` does not belong to kind `command`"),
        ("[{name: ops, kind: slack, url_env: A, secret_env: B}]", "`secret_env` does not belong"),
        ("[{name: ops, kind: slack, url_env: A}, {name: ops, kind: ntfy, url_env: A}]", "a second target"),
        ("[{name: ops, kind: slack, urll: A}]", "did you mean `url`?"),
        ("[{name: ops, kind: slack, url_file: relative}]", "expected an absolute path"),
        ("[{name: ops, kind: command, command: [notify-send]}]", "absolute path of a program"),
        ("[{name: ops, kind: command, command: []}]", "absolute path of a program"),
        ("[{name: ops, kind: command, command: /bin/true}]", "expected a list"),
        ("[{name: ops, kind: slack, url: 'http://hooks.slack.com/hunter2'}]", "expected https"),
        ("[{name: ops, kind: slack, url: 'ftp://h/hunter2'}]", "begins with https://"),
        ("[{name: ops, kind: slack, url: 'https://u:hunter2@h/'}]", "no user or password"),
        ("[{name: ops, kind: slack, url_env: 'https://h/hunter2'}]", "name of an environment variable"),
        ("[{name: ops, kind: webhook, url_env: A, secret_env: 'hunter2'}]", "name of an environment variable"),
    ],
)
def test_every_mistake_is_named_and_nothing_repeated(text: str, said: str) -> None:
    """File and line are there, an address or a key is not."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert caught.value.line == 1
    assert said in f"{caught.value} {caught.value.hint}"
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_the_targets_can_be_read_without_the_other_files(tmp_path: Path) -> None:
    """The process that notifies people needs neither policy nor registry, and takes a folder or one file."""
    (tmp_path / "broker.yaml").write_text("provider: {type: env}\nnotifications: [{name: a, kind: ntfy, url_env: A}]\n")
    assert [target.name for target in load_notifications(tmp_path)] == ["a"]
    assert [target.name for target in load_notifications(tmp_path / "broker.yaml")] == ["a"]


@pytest.mark.parametrize(
    "url",
    [
        *("", "https://", "https:///x", "https://h/\n", "https://h/ä", "//h/x", "https://h:x/", "https://["),
        *("http://127.0.0.1.evil.example/", "http://localhost.evil.example/", "http://10.0.0.1/", "https://h/#x"),
        "x" * 3000,
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(url: str) -> None:
    """Without encryption only this host itself is told."""
    with pytest.raises(ValueError, match="expected"):
        check_target_url(url)


@pytest.mark.parametrize("url", ["https://h/x?y=z", "http://127.0.0.1:8080/", "http://localhost/", "http://[::1]:1/"])
def test_an_address_that_can_be_meant_is_kept(url: str) -> None:
    """As it was written."""
    assert check_target_url(url) == url


def test_only_this_host_is_loopback() -> None:
    """By name or by address."""
    assert [is_loopback(host) for host in ("localhost", "127.8.8.8", "::1", "10.0.0.1", "example.org")] == [
        *([True] * 3),
        *([False] * 2),
    ]


@pytest.mark.parametrize(("groups", "reached"), [((), True), (("ops",), True), (("dev",), False)])
def test_a_target_reaches_those_who_may_decide(groups: tuple[str, ...], reached: bool) -> None:
    """Without groups it is told everything."""
    (target,) = read(f"[{{name: a, kind: ntfy, url_env: A, groups: [{', '.join(groups)}]}}]")
    assert target.reaches(("ops", "alice")) is reached
