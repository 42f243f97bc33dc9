"""The `cache` section's part about the sealed cache: off unless it is switched on, and every mistake has its line."""

import re
from pathlib import Path

import pytest

from broker_worker.core.configuration import CacheSettings, SealedSettings
from broker_worker.core.digest import configuration_digest, providers_digest
from broker_worker.core.errors import ConfigError
from broker_worker.files.broker import read_cache
from broker_worker.files.configuration import load_configuration
from broker_worker.files.sealed_cache import KEYS
from broker_worker.files.sections import Section
from broker_worker.files.yaml_reader import parse_yaml


def sealed(text: str) -> SealedSettings | None:
    """What a file whose `cache` is that text says."""
    tree = parse_yaml(f"cache:\n{text}".encode(), "broker.yaml")
    document = Section(tree, file="broker.yaml", origin="broker.yaml", what="top level")
    return read_cache(document.get("cache"), without_maximum=900).sealed


def test_it_is_off_by_default() -> None:
    """Without a section, without its switch, and with the switch off, whatever else stands there."""
    assert CacheSettings().sealed is None
    assert sealed("  max_entries: 5") is None
    assert sealed("  sealed: false\n  master_key: tpm\n  pcrs: [7]") is None


def test_switch_alone_is_enough() -> None:
    """The host's best is taken."""
    assert sealed("  sealed: true") == SealedSettings("auto")


def test_every_setting_can_be_written() -> None:
    """For each kind its own, and with `auto` all of them."""
    assert sealed("  sealed: true\n  master_key: tpm\n  pcrs: [11, 7, 7]\n  tcti: tabrmd") == SealedSettings(
        "tpm", pcrs=(7, 11), tcti="tabrmd"
    )
    assert sealed("  sealed: true\n  master_key: systemd\n  credential: cache-key") == SealedSettings(
        "systemd", credential="cache-key"
    )
    assert sealed("  sealed: true\n  master_key: passphrase\n  passphrase_file: /etc/p") == SealedSettings(
        "passphrase", passphrase_file="/etc/p"
    )
    text = "  sealed: true\n  key_file: ~/cache.key\n  pcrs: [7]\n  credential: c\n  passphrase_env: MINE"
    assert sealed(text) == SealedSettings(
        key_file=str(Path.home() / "cache.key"), pcrs=(7,), credential="c", passphrase_env="MINE"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("  sealed: maybe", "2: `sealed`: found `maybe`, expected true or false"),
        ("  sealed: true\n  master_key: tmp", "3: `master_key`: found `tmp`, expected `auto` or `tpm` or"),
        ("  sealed: true\n  master_keys: tpm", "3: `cache`: unknown key `master_keys`"),
        ("  master_key: tpm", "2: `master_key`: means something for a sealed cache only"),
        ("  pcrs: [7]", "2: `pcrs`: means something for a sealed cache only"),
        ("  sealed: true\n  master_key: keyring\n  pcrs: [7]", "4: `pcrs`: is for `master_key: tpm`, and this says"),
        ("  sealed: true\n  master_key: tpm\n  credential: c", "4: `credential`: is for `master_key: systemd`"),
        ("  sealed: true\n  pcrs: 7", "3: `pcrs`: found `7`, which YAML takes for a number, expected a list"),
        ("  sealed: true\n  pcrs: [24]", "3: entry of `pcrs`: found `24`, which YAML takes for a number, expected"),
        ("  sealed: true\n  tcti: Device", "3: `tcti`: found `Device`, expected a TCTI such as"),
        ("  sealed: true\n  tcti: 'device:/dev/t p'", "3: `tcti`: found `device:/dev/t p`, expected"),
        ("  sealed: true\n  credential: ../x", "3: `credential`: found `../x`, expected a credential's name"),
        ("  sealed: true\n  key_file: keys/x", "3: `key_file`: found `keys/x`, expected an absolute path"),
        ("  sealed: true\n  passphrase_file: c4nary", "3: `passphrase_file`: found a text, expected an absolute path"),
        ("  sealed: true\n  passphrase_env: c4nary horse", "3: `passphrase_env`: found a text, expected the name of"),
        (
            "  sealed: true\n  passphrase_env: A\n  passphrase_file: /p",
            "4: `cache`: `passphrase_env` and `passphrase_file` both stand here",
        ),
    ],
)
def test_mistake_has_its_line(text: str, message: str) -> None:
    """What was found and what was expected; a passphrase that was pasted there is not repeated."""
    with pytest.raises(ConfigError) as caught:
        sealed(text)
    assert str(caught.value).startswith(f"broker.yaml:{message}")
    assert "c4nary" not in str(caught.value) + caught.value.hint


def test_what_the_page_shows_is_valid() -> None:
    """The YAML of docs/sealed-cache.md, and every key in its table is known."""
    page = (Path(__file__).parents[2] / "docs" / "sealed-cache.md").read_text()
    (section,) = re.findall(r"```yaml\ncache:\n(.*?)```", page, re.DOTALL)
    assert sealed(section) == SealedSettings("auto")
    _, _, table = page.partition("| key in `cache` |")
    assert re.findall(r"(?m)^\| `([a-z_]+)`", table.partition("\n\n")[0]) == list(KEYS)


def test_digests_tell_what_matters(tmp_path: Path) -> None:
    """A changed switch is a changed configuration, and voids no value; a changed provider's section does."""

    def digests(broker: str) -> tuple[str, bytes]:
        file = tmp_path / "broker.yaml"
        secrets = "{}" if "exec" in broker else '{one: "local://one"}'
        file.write_text(f"agents: {{}}\nsecrets: {secrets}\n{broker}")
        configuration = load_configuration(file)
        return configuration_digest(configuration), providers_digest(configuration)

    plain = digests("provider: {type: local}\n")
    moved = digests("# a comment\nprovider:\n  type: local\n")
    switched = digests("provider: {type: local}\ncache: {sealed: true}\n")
    other = digests("provider: {type: local, path: /elsewhere}\n")
    rationed = digests("provider: {type: local, budget: {reads_per_hour: 5}}\n")
    command = "provider: {type: exec, commands: {pass: {argv: [pass, show]}}}\n"
    assert plain == moved
    assert plain[1] == rationed[1]
    assert digests(command + "# exec\n")[1] != digests(command.replace("show", "tell"))[1]
    assert plain[0] != switched[0]
    assert plain[1] == switched[1]
    assert plain[1] != other[1]
