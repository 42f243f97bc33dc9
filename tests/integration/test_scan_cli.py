"""`secret-agent scan` as people and hooks start it: what it prints, what it leaves out, git, baselines, SARIF."""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jsonschema
import pytest
from click.testing import CliRunner, Result
from scan_maker import Maker

from agent_sdk.cli import main
from agent_sdk.scan import tree

M = Maker(11)
KEY = M.checked("ghp_")
PASSWORD = M.password()
SCHEMA = Path(__file__).with_name("sarif-2.1.0.schema.json")
"""As `@microsoft/jest-sarif` of the npm registry ships it, unchanged."""
Scan = Callable[..., Result]


@pytest.fixture
def scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scan:
    """Runs `secret-agent scan …` in a folder of its own."""
    for variable in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "a")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@b")
    return lambda *arguments: CliRunner().invoke(main, ["scan", *arguments])


def git(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Runs the real git in the current folder."""
    return subprocess.run(["git", *arguments], check=check, capture_output=True, text=True)


def commit(message: str = "x") -> str:
    """Commits everything and returns the commit."""
    git("add", "-A", "-f")
    git("commit", "-q", "-m", message)
    return git("rev-parse", "HEAD").stdout.strip()


def test_place_and_kind_are_told_and_never_the_value(scan: Scan) -> None:
    """In all formats; the exit code says whether something was found."""
    Path(".env").write_text(f"DEBUG=1\nTOKEN={KEY}\nDB_PASSWORD={PASSWORD}\n")
    for form in ("human", "json", "sarif"):
        result = scan("--format", form)
        assert result.exit_code == 1
        assert "github-token" in result.output
        for value in (KEY, PASSWORD):
            assert not any(value[at : at + 6] in result.output for at in range(len(value) - 6))
    assert ".env:2:7: github-token (GitHub token)" in scan().stdout
    Path(".env").write_text("DEBUG=1\nTOKEN=secret://github.token\n")
    assert scan().exit_code == 0


def test_what_is_not_looked_at_is_counted(scan: Scan) -> None:
    """Binary and large files, links and folders of packages are told; what git ignores is scanned."""
    git("init", "-q")
    Path(".gitignore").write_text(".env\n")
    Path(".env").write_text(f"TOKEN={KEY}\n")
    Path("node_modules").mkdir()
    Path("node_modules/.env").write_text(f"TOKEN={KEY}\n")
    Path("binary").write_bytes(b"\0" + KEY.encode())
    Path("large").write_bytes(KEY.encode() + b"\n" * (1024 * 1024))
    Path("link").symlink_to(".env")
    os.mkfifo("pipe")
    Path(".git/config").write_text(f'[remote "o"]\n\turl = https://a:{PASSWORD}@git.internal/a\n')
    found = json.loads(scan("--format", "json", "--max-size", "1").stdout)
    assert [each["path"] for each in found["findings"]] == [".env", ".git/config"]
    wanted = {"binary": 1, "large": 1, "links": 1, "folders": 2}
    assert {key: found["summary"][key] for key in wanted} == wanted
    assert "node_modules/.env" in scan("--all").stdout
    assert ".env:" not in scan("--exclude", ".env", "--exclude", ".git").stdout
    assert scan("link").exit_code == 1, "a link that is named is followed"


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/proc/self").exists(), reason="needs a file that even root cannot read"
)
def test_unreadable_files_are_told(scan: Scan) -> None:
    """A file that cannot be read is no finding and no silence: who asks for the exit code is told as well."""
    result = scan("/proc/self/mem", "/proc/self/attr")
    assert "not read: /proc/self/mem" in result.stderr
    assert result.exit_code == 2
    Path(".env").write_text(f"TOKEN={KEY}\n")
    assert scan("/proc/self/mem", ".env").exit_code == 1


def test_what_cannot_be_scanned_is_an_error(scan: Scan) -> None:
    """A path, a baseline or a repository that is not there leaves with 2, one error line and a hint."""
    Path("damaged.json").write_text('{"version": 1, "salt": "AA==", "findings": []}')
    for arguments in (
        ["nowhere"],
        ["--baseline", "nowhere.json"],
        ["--baseline", "damaged.json"],
        ["--git"],
        ["--staged"],
    ):
        result = scan(*arguments)
        assert result.exit_code == 2, arguments
        assert result.stderr.startswith("error: ")
        assert "hint: " in result.stderr
    assert scan("--git", "--staged").exit_code == 2
    assert scan("--update-baseline").exit_code == 2


def test_a_baseline_knows_values_by_file(scan: Scan) -> None:
    """Known ones are not told again wherever in their file they move; new ones, and the same one elsewhere, are."""
    Path(".env").write_text(f"TOKEN={KEY}\n")
    assert scan("--baseline", "known.json", "--update-baseline").exit_code == 0
    assert KEY not in Path("known.json").read_text()
    Path(".env").write_text(f"# moved\n\nTOKEN={KEY}\n")
    result = scan("--baseline", "known.json")
    assert result.exit_code == 0
    assert "0 found, 1 known" in result.stderr
    Path("other.env").write_text(f"TOKEN={KEY}\n")
    Path(".env").write_text(f"TOKEN={KEY}\nDB_PASSWORD={PASSWORD}\n")
    result = scan("--baseline", "known.json")
    assert result.exit_code == 1
    assert [line.partition(":")[0] for line in result.stdout.splitlines()] == [".env", "other.env"]


def test_a_baseline_that_is_a_pipe_is_not_waited_for(scan: Scan) -> None:
    """Nobody may ever write into it."""
    os.mkfifo("known.json")
    result = scan("--baseline", "known.json")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        2,
        "error: the baseline known.json is not a plain file",
    )


def test_an_update_forgets_what_is_gone_where_it_looked(scan: Scan) -> None:
    """What stands outside of the scanned paths stays known, from whatever folder the scan is started."""
    for name in ("a", "b"):
        Path(name).mkdir()
        Path(name, ".env").write_text(f"TOKEN={KEY}\n")
    scan("--baseline", "known.json", "--update-baseline")
    Path("a/.env").write_text("")
    with contextlib.chdir("a"):
        assert scan("--baseline", "../known.json", "--update-baseline").exit_code == 0
    assert [each["path"] for each in json.loads(Path("known.json").read_text())["findings"]] == ["b/.env"]


def test_history_names_commit_and_path_once(scan: Scan) -> None:
    """What was committed and removed is found in its first commit, once, also under names that are hard to print."""
    git("init", "-q")
    Path("déjà vu\n").mkdir()
    odd = Path("déjà vu\n/.env")
    odd.write_text(f"TOKEN={KEY}\n")
    first = commit()
    for number in range(3):
        odd.write_text(f"N={number}\nTOKEN={KEY}\n")
        commit()
    odd.unlink()
    Path("link").symlink_to("nowhere")
    commit()
    assert scan().exit_code == 0, "the work tree is clean"
    (found,) = json.loads(scan("--git", "--format", "json").stdout)["findings"]
    assert (found["commit"], found["path"], found["line"]) == (first, "déjà vu\\n/.env", 1)
    assert scan("--git", "--baseline", "known.json", "--update-baseline").exit_code == 0
    assert scan("--git", "--baseline", "known.json").exit_code == 0


def test_history_reaches_merges_other_branches_and_amended_commits(scan: Scan) -> None:
    """A value that only a merge added, one on another branch, and one that was amended away."""
    git("init", "-q", "-b", "main")
    Path("a").write_text("1\n")
    commit()
    git("checkout", "-q", "-b", "side")
    Path("side.env").write_text(f"TOKEN={KEY}\n")
    commit()
    git("checkout", "-q", "main")
    Path("amended.env").write_text(f"TOKEN={KEY}\n")
    commit()
    Path("amended.env").unlink()
    git("add", "-A")
    git("commit", "-q", "--amend", "--allow-empty", "-m", "x")
    git("merge", "-q", "--no-ff", "--no-commit", "side")
    Path("merge.env").write_text(f"TOKEN={KEY}\n")
    commit()
    found = json.loads(scan("--git", "--format", "json").stdout)["findings"]
    assert sorted(each["path"] for each in found) == ["amended.env", "merge.env", "side.env"]


def test_staged_is_what_the_commit_would_take(scan: Scan) -> None:
    """The index counts, not the work tree, also before the first commit."""
    git("init", "-q")
    Path(".env").write_text(f"TOKEN={KEY}\n")
    assert scan("--staged").exit_code == 0
    git("add", ".env")
    Path(".env").write_text("TOKEN=\n")
    result = scan("--staged")
    assert result.exit_code == 1
    assert ".env:1:7: github-token" in result.stdout
    git("add", ".env")
    assert scan("--staged").exit_code == 0


def test_a_hook_keeps_a_secret_out_of_a_commit(scan: Scan, tmp_path: Path) -> None:
    """A real `git commit` with a plain hook script is refused, also with `-a`, and goes through without the secret."""
    git("init", "-q")
    hook = tmp_path / ".git/hooks/pre-commit"
    hook.write_text(f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -m agent_sdk.cli scan --staged\n")
    hook.chmod(0o755)
    Path("settings.ini").write_text("token = \n")
    git("add", "-A")
    git("commit", "-q", "-m", "clean")
    Path("settings.ini").write_text(f"token = {KEY}\n")
    refused = git("commit", "-q", "-a", "-m", "leak", check=False)
    assert refused.returncode == 1
    assert "settings.ini:1:9: github-token" in refused.stdout + refused.stderr
    assert KEY not in refused.stdout + refused.stderr
    assert git("log", "--oneline").stdout.count("\n") == 1


def test_settings_of_a_repository_start_no_program(scan: Scan, tmp_path: Path) -> None:
    """A repository of somebody else's cannot make the scan run what its configuration names."""
    git("init", "-q")
    Path(".env").write_text(f"TOKEN={KEY}\n")
    Path(".gitattributes").write_text(".env diff=evil\n")
    commit()
    program = tmp_path / "program"
    program.write_text(f'#!/bin/sh\ntouch {tmp_path}/ran\ncat "$1"\n')
    program.chmod(0o755)
    for key in ("core.fsmonitor", "diff.external", "diff.evil.textconv", "diff.evil.command", "core.pager"):
        git("config", key, str(program))
    assert scan("--git").exit_code == 1
    Path(".env").write_text(f"TOKEN={KEY}\nA=1\n")
    git("-c", "core.fsmonitor=false", "add", "-A")
    assert scan("--staged").exit_code == 1
    assert not (tmp_path / "ran").exists()


def test_settings_of_a_repository_hide_nothing(scan: Scan) -> None:
    """Not what stands outside of the folder, not what a replacement covers, and an order of files is none of ours."""
    git("init", "-q")
    Path("sub").mkdir()
    Path("sub/f").write_text("x\n")
    Path(".env").write_text(f"TOKEN={KEY}\n")
    first = commit()
    Path(".env").unlink()
    other = commit()
    git("config", "diff.relative", "true")
    git("config", "diff.orderFile", "/nowhere")
    git("replace", first, other)
    assert scan("--git", "sub").exit_code == 1
    Path("top.env").write_text(f"TOKEN={KEY}\n")
    git("add", "top.env")
    assert scan("--staged", "sub").stdout.startswith("top.env:1:")


def test_sarif_follows_the_schema(scan: Scan) -> None:
    """With and without a baseline, with unreadable files and odd names; fingerprints stay when lines move."""
    Path("a b.env").write_text(f"TOKEN={KEY}\n")
    Path(os.fsdecode(b"\xff.env")).write_text(f"DB_PASSWORD={PASSWORD}\n")
    schema = json.loads(SCHEMA.read_text())
    plain = json.loads(scan("--format", "sarif").stdout)
    jsonschema.validate(plain, schema)
    results = plain["runs"][0]["results"]
    assert {each["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for each in results} == {
        "a%20b.env",
        "%FF.env",
    }
    Path("a b.env").write_text(f"\n\nTOKEN={KEY}\n")
    moved = json.loads(scan("--format", "sarif").stdout)["runs"][0]["results"]
    assert [each["partialFingerprints"] for each in moved] == [each["partialFingerprints"] for each in results]
    scan("--baseline", "k.json", "--update-baseline")
    with_baseline = json.loads(scan("--format", "sarif", "--baseline", "k.json", ".", "/proc/self/mem").stdout)
    jsonschema.validate(with_baseline, schema)
    assert {each["baselineState"] for each in with_baseline["runs"][0]["results"]} == {"unchanged"}


def test_several_processes_find_the_same(scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tree that is worth it is shared out, and the result is that of one process."""
    monkeypatch.setattr(tree, "WORTH_A_PROCESS", 50)
    monkeypatch.setattr(tree, "CHUNK", 9)
    for number in range(60):
        folder = Path(f"d{number % 7}")
        folder.mkdir(exist_ok=True)
        (folder / f"{number}.env").write_text(f"TOKEN={KEY}\n" if number % 9 == 0 else "A=1\n")
    one, two = scan("--jobs", "1"), scan("--jobs", "2")
    assert one.stdout == two.stdout
    assert "7 found, in 60 files" in two.stderr


def test_this_repository_is_quiet() -> None:
    """Nothing outside of the tests, which are full of made-up keys, and the baseline that knows those can be read."""
    root = Path(__file__).parents[2]
    baseline = str(root / ".secret-scan.json")
    result = CliRunner().invoke(main, ["scan", str(root), "--exclude", "tests", "--baseline", baseline, "--jobs", "1"])
    assert result.exit_code == 0, result.output
