"""`egress.yaml`: what it says, and what is refused with file and line."""

import re
from pathlib import Path

import pytest

from broker_worker.core.egress import Send
from broker_worker.core.errors import ConfigError
from broker_worker.core.limits import Rate
from broker_worker.files.configuration import load_configuration
from broker_worker.files.egress import check_egress, read_egress

WHOLE = """\
egress:
  port: 7721
  max_calls: 100
  max_calls_per_run: 7
  routes:
    openai:
      upstream: https://api.openai.com
      secret: openai.api_key
      send: {header: Authorization, value: "Bearer {secret}"}
      allow:
        - {method: POST, path: /v1/chat/completions}
        - {method: GET, path: "/v1/models/*"}
      max_request: 1MiB
      max_response: 64KiB
      timeout: 5m
      idle: 30s
      rate: 60/m
    inside:
      upstream: https://10.0.0.5:8443/api/v2
      secret: inside.key
      send: {query: key}
      allow: [{method: GET, path: /x}]
      allow_private: [10.0.0.0/8]
      ca_file: /etc/ca.pem
    git:
      upstream: https://github.com
      secret: github.token
      send: {basic: {user: x-access-token}}
      allow: [{method: GET, path: "/acme/*/info/refs"}]
"""
ROUTE = """\
egress:
  routes:
    r:
      upstream: https://api.example.com
      secret: a.b
      send: {header: X-Key}
      allow: [{method: GET, path: /x}]
"""


def written(folder: Path, text: str) -> Path:
    """The file with this content."""
    file = folder / "egress.yaml"
    file.write_text(text)
    return file


def test_everything_that_can_be_written(tmp_path: Path) -> None:
    """Each key is read into what the proxy works with."""
    found = read_egress(written(tmp_path, WHOLE))
    assert (found.port, found.max_calls, found.max_calls_per_run) == (7721, 100, 7)
    openai, inside, git = (found.routes[name] for name in ("openai", "inside", "git"))
    assert (openai.upstream.origin, openai.secret) == ("https://api.openai.com", "openai.api_key")
    assert openai.send == Send("header", "Authorization", "Bearer {secret}")
    assert [(each.method, each.path.text) for each in openai.allow] == [
        ("POST", "/v1/chat/completions"),
        ("GET", "/v1/models/*"),
    ]
    bounds = openai.bounds
    assert (bounds.max_request, bounds.max_response) == (2**20, 2**16)
    assert (bounds.timeout_seconds, bounds.idle_seconds, bounds.rate) == (300, 30, Rate(60, 60_000, 60))
    assert (inside.upstream.origin, inside.upstream.prefix) == ("https://10.0.0.5:8443", ("api", "v2"))
    assert (inside.send, inside.ca_file) == (Send("query", "key"), "/etc/ca.pem")
    assert git.send == Send("basic", "x-access-token")
    assert str(openai.origin) == "egress.yaml:6"


@pytest.mark.parametrize(
    ("before", "after", "line", "words"),
    [
        ("https://api.example.com", "http://api.example.com", 4, "unencrypted"),
        ("https://api.example.com", "ftp://api.example.com", 4, "expected a URL"),
        ("https://api.example.com", "https://user:pw@api.example.com", 4, "a user, a query or a fragment"),
        ("https://api.example.com", "https://api.example.com/?x=1", 4, "a user, a query or a fragment"),
        ("https://api.example.com", "https://api.example.com/a/../b", 4, "expected a URL"),
        ("https://api.example.com", "https://api.example.com/a/", 4, "without a slash"),
        ("https://api.example.com", "https://127.0.0.1", 4, "no public address"),
        ("https://api.example.com", "https://169.254.169.254", 4, "no public address"),
        ("https://api.example.com", "https://2130706433", 4, "in its usual form"),
        ("https://api.example.com", "https://127.1", 4, "in its usual form"),
        ("https://api.example.com", "https://exa_mple.com", 4, "in its usual form"),
        ("a.b", "A.b", 5, "canonical"),
        ("{header: X-Key}", "{header: Host}", 6, "belongs to the connection"),
        ("{header: X-Key}", '{header: X-Key, value: "Bearer"}', 6, "{secret}"),
        ("{header: X-Key}", '{header: X-Key, value: "{secret}{secret}"}', 6, "once"),
        ("{header: X-Key}", "{header: X-Key, query: k}", 6, "one of"),
        ("{header: X-Key}", "{}", 6, "one of"),
        ("{header: X-Key}", '{query: k, value: "{secret}"}', 6, "belongs to `header`"),
        ("{header: X-Key}", "{query: 'a&b'}", 6, "query's key"),
        ("{header: X-Key}", "{basic: {user: 'a:b'}}", 6, "without `:`"),
        ("[{method: GET, path: /x}]", "[]", 7, "nothing could be called"),
        ("[{method: GET, path: /x}]", "[{method: CONNECT, path: /x}]", 7, "`GET`"),
        ("[{method: GET, path: /x}]", "[{method: GET, path: /x/../y}]", 7, "segments"),
        ("[{method: GET, path: /x}]", "[{method: GET, path: /x}, {method: GET, path: /x}]", 7, "twice"),
        ("[{method: GET, path: /x}]", "[{method: GET, path: /x}]\n      max_request: 10MB", 8, "expected a size"),
        ("[{method: GET, path: /x}]", "[{method: GET, path: /x}]\n      allow_private: [10.0.0.1/8]", 8, "a network"),
        ("[{method: GET, path: /x}]", "[{method: GET, path: /x}]\n      redirects: true", 8, "unknown key"),
        ("    r:", "    R:", 3, "canonical"),
    ],
)
def test_what_cannot_be_meant_is_refused_where_it_stands(
    tmp_path: Path, before: str, after: str, line: int, words: str
) -> None:
    """The error says what was found, what was expected, and the line."""
    assert before in ROUTE
    read_egress(written(tmp_path, ROUTE))
    with pytest.raises(ConfigError, match=words.replace("{", r"\{")) as error:
        read_egress(written(tmp_path, ROUTE.replace(before, after)))
    assert error.value.line == line


@pytest.mark.parametrize("number", range(3))
def test_what_the_page_shows_is_valid(tmp_path: Path, number: int) -> None:
    """The YAML of docs/egress.md: a policy, and routes for what agents use most."""
    page = Path(__file__).parents[2] / "docs" / "egress.md"
    shown = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert len(shown) == 3
    file = written(tmp_path, shown[number])
    if number:
        assert read_egress(file).routes
    else:
        assert load_configuration(file).policy.agents["egress"].acts_for is not None


def test_plain_http_is_for_this_host_only(tmp_path: Path) -> None:
    """A server of this host may be called without TLS, if the operator says so."""
    text = ROUTE.replace("https://api.example.com", "http://127.0.0.1:8000")
    with pytest.raises(ConfigError, match="no public address"):
        read_egress(written(tmp_path, text))
    named = text + "      allow_private: [127.0.0.1/32]\n"
    assert read_egress(written(tmp_path, named)).routes["r"].upstream.origin == "http://127.0.0.1:8000"


def test_it_is_checked_against_the_other_files(tmp_path: Path) -> None:
    """A secret that the registry does not have is an error."""
    config = tmp_path / "config"
    config.mkdir()
    policy = config / "all.yaml"
    policy.write_text(
        "agents: {egress: {allow: []}}\nsecrets: {a.b: 'env://X'}\nprovider: {type: env}\n"
        "issuers: [{name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}]\n"
    )
    configuration = load_configuration(policy)
    assert check_egress(written(tmp_path, ROUTE), configuration).routes
    with pytest.raises(ConfigError, match=r"egress.yaml:5: .*no secret `a.c`"):
        check_egress(written(tmp_path, ROUTE.replace("a.b", "a.c")), configuration)


@pytest.mark.parametrize(
    "send",
    [
        '{header: X-Key, value: "Bearer sk-canary-1"}',
        '{header: "X-Key: sk-canary-1"}',
        '{query: "sk-canary-1="}',
        '{basic: {user: "me:sk-canary-1"}}',
        "sk-canary-1",
    ],
)
def test_a_value_that_was_written_instead_of_its_place_is_not_repeated(tmp_path: Path, send: str) -> None:
    """Somebody pastes the key where `{secret}` belongs: the error says what to write, and not what was written."""
    with pytest.raises(ConfigError) as caught:
        read_egress(written(tmp_path, ROUTE.replace("{header: X-Key}", send, 1)))
    assert "canary" not in f"{caught.value} {caught.value.hint}"
    assert caught.value.line is not None


def test_without_a_file_the_error_says_how_to_name_one(tmp_path: Path) -> None:
    """`init` makes none, and a proxy that was launched does not know the broker's home."""
    with pytest.raises(ConfigError, match="does not exist") as caught:
        read_egress(tmp_path / "egress.yaml")
    assert "--config" in caught.value.hint
