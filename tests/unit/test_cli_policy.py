"""`secret-broker policy`: check, explain, test."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from broker_worker.cli import main
from broker_worker.providers import schemes

EXAMPLES = Path(__file__).parents[2] / "config"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home whose configuration is the repository's example without its comments."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    monkeypatch.setenv("SECRET_BROKER_HOME", str(tmp_path))
    (tmp_path / "config").mkdir()
    for file in EXAMPLES.glob("*.yaml"):
        lines = [line for line in file.read_text().splitlines() if line and not line.startswith("#")]
        (tmp_path / "config" / file.name).write_text("\n".join(lines) + "\n")
    return tmp_path


def run(*arguments: str | Path) -> Result:
    """Run `secret-broker policy …`."""
    return CliRunner().invoke(main, ["policy", *map(str, arguments)])


def add(path: Path, text: str) -> Path:
    """Append to a file."""
    path.write_text(path.read_text() + text)
    return path


def test_check_says_that_the_broker_s_own_files_are_valid(home: Path) -> None:
    """One line with what was found."""
    result = run("check")
    assert result.exit_code == 0
    assert result.output.startswith(f"{home}/config: valid, 4 agents, 3 secrets, 0 warnings; policy ")


def test_check_takes_a_policy_by_itself(home: Path) -> None:
    """No registry is needed to check it."""
    result = run("check", home / "config" / "policy.yaml", "--strict")
    assert result.exit_code == 0
    assert "valid, 4 agents, no registry, 0 warnings" in result.output


def test_check_names_an_error_and_a_hint_and_leaves_with_3(home: Path) -> None:
    """Error and hint on stderr, one line each."""
    file = add(home / "config" / "policy.yaml", "aggents: {}\n")
    result = run("check")
    line = file.read_text().count("\n")
    assert result.exit_code == 3
    assert result.stderr == f"error: {file}:{line}: top level: unknown key `aggents`\nhint: did you mean `agents`?\n"
    assert result.stdout == ""


def test_check_as_json_names_an_error(home: Path) -> None:
    """For a script: file, line, message and hint."""
    file = home / "config" / "secrets.yaml"
    file.write_text("secrets: {one: c4nary}\n")
    result = run("check", "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["valid"]) == (3, False)
    assert [(error["file"], error["line"]) for error in document["errors"]] == [(str(file), 1)]
    assert "c4nary" not in result.output


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("type: connect", "provider connect: url, the address of the Connect server, is missing"),
        ("type: connect\n  url: http://c4nary.example:8080", "provider connect: url: expected https:"),
        (
            "type: vault\n  url: http://c4nary.example:8200",
            "provider vault: url would send token and secrets unencrypted",
        ),
        ("type: vault\n  auth: approle", "provider vault: role_id is missing"),
        ("type: onepassword\n  timeout_seconds: 61", "timeout_seconds is not a whole number from 1 to 60"),
        ("type: aws-sm\n  timeout_seconds: 0", "timeout_seconds is not a whole number from 1 to 60"),
        ("type: onepassword\n  token_env: ops_c4nary", "token_env is not the name of an environment variable"),
        ("type: vault\n  token_env: hvs.c4nary", "token_env is not the name of an environment variable"),
        ("type: aws-ssm\n  endpoint_url: http://c4nary.example", "endpoint_url is not https:// and a host"),
        ("type: local\n  path: c4nary/vault", "path is not an absolute path"),
        ("type: openbao", "provider openbao: there is no such type"),
    ],
)
def test_check_refuses_options_that_are_known_to_be_wrong(
    home: Path, monkeypatch: pytest.MonkeyPatch, section: str, says: str
) -> None:
    """With file and line, without repeating a value, and also where the vault's library is not installed."""
    monkeypatch.setattr(schemes, "find_spec", lambda name: None)
    file = home / "config" / "broker.yaml"
    file.write_text(f"# vaults\nprovider:\n  {section}\n")
    (home / "config" / "secrets.yaml").write_text("secrets: {}\n")
    (home / "config" / "policy.yaml").write_text("agents: {}\n")
    result = run("check")
    assert result.exit_code == 3, result.output
    assert result.stderr.startswith("error: broker.yaml:3: ")
    assert says in result.stderr
    assert "hint: " in result.stderr
    assert "c4nary" not in result.output


@pytest.mark.parametrize(
    ("provider", "variable"),
    [
        ("{type: env}", "VAULT_TOKEN"),
        ("{type: env}", "SECRET_BROKER_VAULT_PASSPHRASE"),
        ("{type: env}", "REDIS_URL"),
        ("{type: connect, url: 'https://c.example', token_env: OURS}", "OURS"),
        ("{type: vault, auth: approle, role_id: r, secret_id_env: OUR_ID}", "OUR_ID"),
        ("{type: aws-sm}", "AWS_SECRET_ACCESS_KEY"),
        ("{type: local, passphrase_env: PASS}", "PASS"),
    ],
)
def test_check_refuses_to_hand_out_the_broker_s_own_credentials(home: Path, provider: str, variable: str) -> None:
    """When the files are read, not when an agent asks; a variable that another section names counts as well."""
    others = "" if "type: env" in provider else ", {type: env}"
    (home / "config" / "broker.yaml").write_text(f"providers: [{provider}{others}]\n")
    file = home / "config" / "secrets.yaml"
    file.write_text(f"secrets:\n  one: env://{variable}\n")
    (home / "config" / "policy.yaml").write_text("agents: {}\n")
    result = run("check")
    assert result.exit_code == 3, result.output
    assert f"{file}:2: " in result.stderr
    assert "this one holds what the broker itself uses" in result.stderr


def test_check_knows_the_options_of_a_vault_by_name(home: Path) -> None:
    """A token written into the file is refused before a running broker refuses it, and is not repeated."""
    (home / "config" / "broker.yaml").write_text("provider:\n  type: local\n  key_fil: /k\n  token: ops_canary\n")
    result = run("check")
    assert result.exit_code == 3
    assert "unknown option 'key_fil'" in result.stderr
    assert "did you mean 'key_file'?" in result.stderr
    assert "canary" not in result.output


def test_check_shows_warnings_and_goes_on(home: Path) -> None:
    """Warnings alone are no failure."""
    add(home / "config" / "secrets.yaml", "  lost: local://lost\n")
    result = run("check")
    assert result.exit_code == 0
    assert "warning: secrets.yaml:" in result.output
    assert "no agent can get the secret `lost`" in result.output
    assert "hint: allow it to an agent, or remove it from the registry" in result.output


def test_check_strict_fails_on_warnings(home: Path) -> None:
    """For CI."""
    add(home / "config" / "secrets.yaml", "  lost: local://lost\n")
    assert run("check", "--strict").exit_code == 1


def test_check_as_json_lists_warnings_and_digests(home: Path) -> None:
    """With a stable code, file and line."""
    add(home / "config" / "secrets.yaml", "  lost: local://lost\n")
    document = json.loads(run("check", "--json").stdout)
    (warning,) = document["warnings"]
    assert (document["valid"], warning["code"], warning["file"]) == (True, "unused_secret", "secrets.yaml")
    assert len(document["digest"]) == len(document["policy_digest"]) == 64


def test_check_of_an_empty_home_says_what_to_do(tmp_path: Path) -> None:
    """Before `secret-broker init`."""
    result = CliRunner().invoke(main, ["--home", str(tmp_path), "policy", "check"])
    assert result.exit_code == 3
    assert "does not exist" in result.stderr
    assert "secret-broker init" in result.stderr


@pytest.mark.usefixtures("home")
def test_explain_names_the_rule_the_life_and_the_limits() -> None:
    """For a name that is granted."""
    result = run("explain", "--agent", "claude", "--secret", "openai.api_key")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "allow: claude asks for openai.api_key in run-0",
        "  reason   granted: an entry allows it and all its conditions hold",
        "  rule     policy.yaml:4",
        "  secret   secrets.yaml:2, from local://…",
        "  ttl      300 s at most",
        "  limit    agent: 1200/m, 200 at once",
        "  limit    run: 600/m, 100 at once",
        "  limit    secret: 6000/m, 1000 at once",
    ]


@pytest.mark.usefixtures("home")
def test_explain_says_why_not() -> None:
    """For a name that is refused; explaining is no failure."""
    result = run("explain", "--agent", "grok", "--secret", "github.read_token", "--run", "run-7")
    assert result.exit_code == 0
    assert result.output.startswith("deny: grok asks for github.read_token in run-7\n  reason   no_grant: ")


def test_explain_takes_run_purpose_and_file(tmp_path: Path) -> None:
    """Conditions are tried with what the options say."""
    file = tmp_path / "p.yaml"
    file.write_text(
        "roles: {r: {allow: [{secret: one, runs: [nightly-*], purpose: required}]}}\nagents: {codex: {roles: [r]}}\n"
    )
    ask = ("explain", "--agent", "codex", "--secret", "one", "--file", file, "--json")
    assert json.loads(run(*ask).stdout)["reason"] == "run_not_covered"
    assert json.loads(run(*ask, "--run", "nightly-1").stdout)["reason"] == "purpose_required"
    granted = json.loads(run(*ask, "--run", "nightly-1", "--purpose", "report").stdout)
    assert (granted["decision"], granted["rule"], granted["role"]) == ("allow", "p.yaml:1", "r")
    assert granted["limits"][0] == {"scope": "agent", "count": 1200, "period_ms": 60_000, "burst": 200}


@pytest.mark.parametrize(("agent", "secret"), [("Claude", "openai.api_key"), ("claude", "OpenAI")])
@pytest.mark.usefixtures("home")
def test_explain_refuses_a_name_that_is_not_canonical(agent: str, secret: str) -> None:
    """As the broker would; that is a mistake on the command line."""
    result = run("explain", "--agent", agent, "--secret", secret)
    assert result.exit_code == 2
    assert "is not in canonical form" in result.stderr


def table(home: Path, *cases: str) -> Path:
    """A table of expectations about the example."""
    file = home / "expectations.yaml"
    file.write_text("policy: config\ncases:\n" + "".join(f"  - {{{case}}}\n" for case in cases))
    return file


def test_test_passes_if_every_case_holds(home: Path) -> None:
    """Allowed, denied, for the right reason, by the right line."""
    result = run(
        "test",
        table(
            home,
            "agent: claude, secret: openai.api_key, expect: allow, rule: 'policy.yaml:4'",
            "agent: random-script, secret: openai.api_key, expect: deny, reason: no_grant",
            "agent: stranger, secret: openai.api_key, expect: deny, reason: unknown_agent",
        ),
    )
    assert (result.exit_code, result.output) == (0, "3 of 3 cases hold\n")


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (
            "agent: grok, secret: openai.api_key, expect: deny",
            "grok asks for openai.api_key: expected deny, found allow (granted, policy.yaml:12)",
        ),
        (
            "agent: grok, secret: lost, expect: allow",
            "grok asks for lost: expected allow, found deny (no_grant, policy.yaml:10)",
        ),
        (
            "agent: grok, secret: lost, expect: deny, reason: unknown_secret",
            "grok asks for lost: expected the reason unknown_secret, found deny (no_grant, policy.yaml:10)",
        ),
        (
            "agent: grok, secret: openai.api_key, expect: allow, rule: 'policy.yaml:1', at: 2026-01-01T00:00:00Z",
            "grok asks for openai.api_key: expected the rule policy.yaml:1, found allow (granted, policy.yaml:12) at "
            "2026-01-01T00:00:00Z",
        ),
        (
            "agent: stranger, secret: lost, expect: allow",
            "stranger asks for lost: expected allow, found deny (unknown_agent, no line)",
        ),
    ],
)
def test_test_shows_each_case_that_does_not_hold(home: Path, case: str, message: str) -> None:
    """With the table's own line, what was expected and what was found; exit code 1."""
    file = table(home, "agent: claude, secret: openai.api_key, expect: allow", case)
    result = run("test", file)
    assert result.exit_code == 1
    assert result.output == f"FAIL {file}:4: {message}\n1 of 2 cases hold\n"


def test_test_as_json(home: Path) -> None:
    """For a script."""
    result = run("test", table(home, "agent: grok, secret: lost, expect: allow"), "--json")
    document = json.loads(result.stdout)
    assert (result.exit_code, document["passed"], document["cases"]) == (1, False, 1)
    assert document["failures"][0]["line"] == 3


def test_test_without_cases_is_an_error(home: Path) -> None:
    """A table that is empty by accident must not pass."""
    file = home / "expectations.yaml"
    file.write_text("cases: []\n")
    result = run("test", file)
    assert result.exit_code == 3
    assert "nothing would be tested" in result.stderr


def test_test_uses_the_broker_s_own_files_if_the_table_names_none(home: Path) -> None:
    """Relative to nothing but the home."""
    file = home / "expectations.yaml"
    file.write_text("cases: [{agent: claude, secret: openai.api_key, expect: allow}]\n")
    assert run("test", file).exit_code == 0
