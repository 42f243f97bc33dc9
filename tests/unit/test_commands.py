"""Commands in `broker.yaml`, and references to them: what is meant is kept as written, all else has its line."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker_worker.core.commands import Command, command_and_name, filled, is_command_path
from broker_worker.core.configuration import ProviderSettings
from broker_worker.core.errors import ConfigError
from broker_worker.files.broker import read_providers
from broker_worker.files.configuration import load_configuration
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml

ISSUERS = "issuers: [{name: a, public_key: 3mxxo4lGY99I-1puMNFUsi8GGxX76FKNUAVLqv3vPP8, all_agents: true}]\n"
COMMANDS = """\
provider:
  type: exec
  commands:
    pass:
      argv: [pass, show, "{name}"]
      put_argv: [pass, insert, --multiline, --force, "{name}"]
      env: [GNUPGHOME, PASSWORD_STORE_DIR]
      not_found_exit: 1
    sops:
      argv: [/usr/bin/sops, decrypt, --extract, '["openai"]', /etc/secrets.yaml]
      timeout_seconds: 3
      keep_newline: true
"""


def read(text: str) -> tuple[ProviderSettings, ...]:
    """The providers of a file with that text."""
    tree = parse_yaml(text.encode(), "broker.yaml")
    return read_providers(Section(tree, file="broker.yaml", origin="broker.yaml", what="top level"))


def folder(tmp_path: Path, reference: str, broker: str = COMMANDS) -> Path:
    """The operator's files with one secret."""
    (tmp_path / "broker.yaml").write_text(broker)
    (tmp_path / "policy.yaml").write_text("agents: {claude: {allow: []}}\n")
    (tmp_path / "secrets.yaml").write_text(f"secrets:\n  one: '{reference}'\n")
    (tmp_path / "issuers.yaml").write_text(ISSUERS)
    return tmp_path


def test_commands_are_kept_as_written() -> None:
    """Fixed arguments, and what else there is to say of a command."""
    (section,) = read(COMMANDS)
    assert section.type == "exec"
    assert section.options == {}
    assert section.commands == {
        "pass": Command(
            ("pass", "show", "{name}"),
            put_argv=("pass", "insert", "--multiline", "--force", "{name}"),
            env=("GNUPGHOME", "PASSWORD_STORE_DIR"),
            not_found_exit=1,
        ),
        "sops": Command(
            ("/usr/bin/sops", "decrypt", "--extract", '["openai"]', "/etc/secrets.yaml"),
            timeout_seconds=3,
            keep_newline=True,
        ),
    }


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("{}", "`c`: the key `argv` is missing"),
        ("{argv: []}", "`argv`: expected a program and at most 63 arguments"),
        ("{argv: c4nary --x}", "`argv`: found a text, expected a list"),
        ("{argv: [c4nary/x]}", "`argv`: expected the program's name or its absolute path first"),
        ("{argv: ['./c4nary']}", "`argv`: expected the program's name or its absolute path first"),
        ("{argv: ['{name}']}", "`argv`: expected the program's name or its absolute path first"),
        ("{argv: [sh, -c, c4nary]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [/bin/bash, -c, c4nary]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [/opt/bash-5.2, -c, c4nary]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [/usr/bin/env, bash, -c, c4nary]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [env, -i, A=c4nary, /bin/dash, -c, x]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [timeout, '5', nice, zsh, c4nary]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [/bin/busybox, sh, -c, c4nary]}", "`argv`: expected the program itself, not a shell"),
        ("{argv: [c4nary], put_argv: [sudo, ksh93, -c, x]}", "`put_argv`: expected the program itself, not a shell"),
        ("{argv: [env, -S, c4nary]}", "`argv`: expected each argument as a word of its own"),
        ("{argv: [env, '--split-string=c4nary x']}", "`argv`: expected each argument as a word of its own"),
        ("{argv: [env, '-iSc4nary x']}", "`argv`: expected each argument as a word of its own"),
        ("{argv: [python3, -c, '{name}', c4nary]}", "`argv`: expected {name} as an argument of a script, not as what"),
        (
            "{argv: [/usr/bin/perl, '{name}', c4nary]}",
            "`argv`: expected {name} as an argument of a script, not as what",
        ),
        ("{argv: [c4nary, {name}]}", "entry of `argv`: found a mapping, expected a program or an argument"),
        ("{argv: [c4nary, '--secret={name}']}", "`argv`: expected {name} as one whole argument, or not at all"),
        ("{argv: [c4nary, '{name}', '{name}']}", "`argv`: expected {name} as one whole argument, or not at all"),
        ("{argv: [c4nary, 5]}", "entry of `argv`: found a number, expected a program or an argument"),
        ("{argv: [c4nary, '']}", "entry of `argv`: found a text, expected a program or an argument"),
        (f"{{argv: [c4nary{', x' * 64}]}}", "`argv`: expected a program and at most 63 arguments"),
        ("{argv: [c4nary], timeout_seconds: 11}", "`timeout_seconds`: found a number, expected a whole number from 1"),
        ("{argv: [c4nary], not_found_exit: 0}", "`not_found_exit`: found a number, expected a whole number from 1"),
        ("{argv: [c4nary], not_found_exit: 256}", "`not_found_exit`: found a number, expected a whole number from 1"),
        ("{argv: [c4nary], keep_newline: c4nary}", "`keep_newline`: found a text, expected true or false"),
        ("{argv: [c4nary], env: [c4nary=x]}", "entry of `env`: expected the name of an environment variable"),
        ("{argv: [c4nary], env: [SECRET_BROKER_HOME]}", "entry of `env`: this variable belongs to the broker itself"),
        ("{argv: [c4nary], env: [HOME]}", "entry of `env`: PATH, HOME, LANG are given to every command"),
        ("{argv: [c4nary], env: [REDIS_URL]}", "entry of `env`: this variable belongs to the broker itself"),
        (f"{{argv: [c4nary], env: [A{', A' * 32}]}}", "`env`: expected at most 32 variables"),
        ("{argv: [c4nary], argvv: [x]}", "`c`: unknown key `argvv`"),
        ("{argv: [c4nary], put_argv: [c4nary, '{name}']}", "`put_argv`: expected {name} here if, and only if, `argv`"),
        ("{argv: [x, '{name}'], create_argv: [c4nary]}", "`create_argv`: expected {name} here if, and only if, `argv`"),
        ("{argv: [c4nary], exists_exit: 1}", "`exists_exit`: `create_argv` is missing, whose exit code this is"),
    ],
)
def test_a_mistake_in_a_command_has_its_line_and_repeats_no_argument(command: str, message: str) -> None:
    """Somebody may have written a token among the arguments."""
    with pytest.raises(ConfigError) as caught:
        read(f"provider:\n  type: exec\n  commands:\n    c: {command}\n")
    assert str(caught.value).startswith(f"broker.yaml:4: {message}")
    assert "c4nary" not in str(caught.value) + caught.value.hint


@pytest.mark.parametrize(
    "argv",
    [
        "[ssh, vault-host, show]",
        "[env, -u, LD_PRELOAD, gcloud, secrets, -Simple]",
        "[timeout, '5', pass, show, '{name}']",
        "[python3, /opt/read.py, '{name}']",
        "[python3, -c, 'import sys; print(sys.argv[1])', '{name}']",
    ],
)
def test_what_is_no_shell_is_taken(argv: str) -> None:
    """Code that the operator wrote is fixed, and a name among its arguments is no code."""
    assert read(f"provider: {{type: exec, commands: {{c: {{argv: {argv}}}}}}}\n")


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{type: exec}", "`provider`: the key `commands` is missing"),
        ("{type: exec, commands: {}}", "`commands`: expected 1 to 64 commands, found 0"),
        ("{type: exec, commands: [pass]}", "`commands`: found a list, expected a mapping"),
        ("{type: exec, commands: {Pass: {argv: [pass]}}}", "`commands`: expected a name of lower-case letters"),
        ("{type: exec, commands: {c: {argv: [x]}}, argv: [x]}", "`argv`: found a list, expected a text"),
        ("{type: local, commands: {c: {argv: [x]}}}", "`commands`: found a mapping, expected a text"),
    ],
)
def test_a_mistake_in_the_section(section: str, message: str) -> None:
    """Commands belong to `exec`, which has at least one."""
    with pytest.raises(ConfigError) as caught:
        read(f"provider: {section}\n")
    assert str(caught.value).startswith(f"broker.yaml:1: {message}")


@pytest.mark.parametrize("reference", ["exec://pass/Team/GitHub", "exec://sops", "exec://pass/op://v/i/f"])
def test_a_reference_names_a_command_that_is_there(tmp_path: Path, reference: str) -> None:
    """With a name where the command takes one."""
    assert load_configuration(folder(tmp_path, reference)).registry["one"].ref == reference


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("exec://gcloud/c4nary", "expected one of the commands in broker.yaml: pass, sops"),
        ("exec://pass", "expected exec://pass/name, as the command's arguments are written in broker.yaml"),
        ("exec://sops/c4nary", "expected exec://sops without a name, as the command's arguments are written"),
        ("exec://pass/--c4nary", "the reference is not of the form exec://command or exec://command/name"),
        ("exec://pass/a;c4nary", "the reference is not of the form exec://command or exec://command/name"),
        ("exec://pass/../c4nary", "the reference is not of the form exec://command or exec://command/name"),
    ],
)
def test_any_other_reference_is_refused_with_its_line(tmp_path: Path, reference: str, message: str) -> None:
    """When the files are read, and without repeating it."""
    with pytest.raises(ConfigError, match=re.escape(f"secrets.yaml:2: secret `one`: {message}")) as caught:
        load_configuration(folder(tmp_path, reference))
    assert "c4nary" not in str(caught.value) + caught.value.hint


def test_without_the_section_the_reference_says_what_is_missing(tmp_path: Path) -> None:
    """As for every other built-in type."""
    with pytest.raises(ConfigError, match="no provider of type `exec`"):
        load_configuration(folder(tmp_path, "exec://pass/x", "provider: {type: env}\n"))


def test_other_arguments_are_another_configuration(tmp_path: Path) -> None:
    """So a worker that runs takes the change."""
    before = load_configuration(folder(tmp_path, "exec://pass/x"))
    after = load_configuration(folder(tmp_path, "exec://pass/x", COMMANDS.replace("show", "otp")))
    assert before.digest != after.digest
    assert before.providers != after.providers
    assert before.policy.digest == after.policy.digest


@given(st.text(max_size=30) | st.from_regex(r"[a-z]{1,3}/[-./@:a-z;$\n ]{0,12}", fullmatch=True))
def test_what_passes_is_one_plain_argument(path: str) -> None:
    """Whatever the reference says, the program gets as many arguments as are written, and this one is no option."""
    if not is_command_path(path):
        return
    command, name = command_and_name(path)
    assert re.fullmatch("[a-z][a-z0-9-]*", command)
    argv = ("program", "--option", "{name}", "last")
    made = filled(argv, name)
    assert len(made) == len(argv)
    if name is not None:
        assert made == ["program", "--option", name, "last"]
        assert not set(name) & set(" \t\n\0;&|<>$`'\"\\*?~#=%(){}[]!^,")
        assert not any(part.startswith(("-", ".", "@")) for part in name.split("/"))
        assert name.isascii()
        assert not name.startswith("/")
