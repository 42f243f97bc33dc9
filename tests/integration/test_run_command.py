"""`secret-agent run` as a process among pipes: what the command finds, what comes out, and how it ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from agent_workbench import AGENT, KEY, LONG, AgentHouse, agent, until

from agent_sdk.credential import FILE_VARIABLE, RunCredential


class Going:
    """A command that goes on.

    Args:
        house: whose.
        arguments: of `run`.
    """

    def __init__(self, house: AgentHouse, arguments: Sequence[str]) -> None:
        out, err = os.pipe(), os.pipe()
        with Path(os.devnull).open("rb") as nothing:
            self.process = house.nursery.start(["run", *arguments], house.environ(), (nothing.fileno(), out[1], err[1]))
        os.close(out[1])
        os.close(err[1])
        self.stdout, self.stderr = os.fdopen(out[0], "rb"), os.fdopen(err[0], "rb")

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(self.process.wait())


@contextlib.contextmanager
def started(house: AgentHouse, *arguments: str) -> Iterator[Going]:
    """A command that goes on; it has said "ready"."""
    going = Going(house, arguments)
    try:
        assert going.stdout.readline() == b"ready\n"
        yield going
    finally:
        going.process.kill()
        going.stdout.close()
        going.stderr.close()


LOOP = "echo ready; while :; do sleep 0.05; done"


def test_a_command_finds_values_where_references_were_and_nobody_sees_them(
    agent_house: AgentHouse, tmp_path: Path
) -> None:
    """Environment, env file, option and file; masked on both streams; its exit code; leases given back in the end."""
    (tmp_path / ".env").write_text("FROM_FILE=secret://b.key\nPLAIN='as it is'\n")
    script = """
        test "$FROM_OWN" = "$(cat $PEM_FILE)" && echo same
        echo "own $FROM_OWN" >&2
        echo "file $FROM_FILE, $PLAIN"
        test "$FROM_OPTION" = other-value-98765 && echo option
        env | grep -c SECRET_BROKER
        ls $PEM_FILE
        exit 5
    """
    options = ["--env-file", str(tmp_path / ".env"), "--env", "FROM_OPTION=secret://b.key", "--purpose", "a test"]
    options += ["--file", "PEM_FILE=secret://a.key"]
    done = agent(agent_house, "run", *options, "--", "sh", "-c", script, FROM_OWN="secret://a.key")
    assert done.stdout.startswith(b"same\nfile [masked b.key], as it is\noption\n0\n/proc/self/fd/")
    assert (done.stderr, done.returncode) == (b"own [masked a.key]\n", 5)
    (asked,) = [r for r in agent_house.desk.requests if r.operation == "resolve"]
    assert (asked.ways, asked.purpose) == ({"a.key": "env,file", "b.key": "env"}, "a test")
    assert all(lease.ended == "released" for lease in agent_house.desk.leases)


def test_a_command_that_dies_by_a_signal_ends_us_by_it(agent_house: AgentHouse) -> None:
    """Whoever started us sees what it would have seen."""
    done = agent(agent_house, "run", "--env", "A=secret://a.key", "--", "sh", "-c", "kill -TERM $$")
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGTERM, b"", b"")


def test_a_launcher_that_ignores_the_end_of_children_does_not_hold_us_up(agent_house: AgentHouse) -> None:
    """The system would tell nobody how the command ended."""
    launcher = (
        "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    )
    start = [sys.executable, "-c", launcher, *AGENT, "run", "--env", "A=secret://a.key", "--", "sh", "-c", "exit 3"]
    done = subprocess.run(start, env=agent_house.environ(), capture_output=True, timeout=LONG, check=False)
    assert (done.returncode, done.stderr) == (3, b"")


def test_a_command_that_cannot_be_started_ends_as_in_a_shell(agent_house: AgentHouse) -> None:
    """126 if it is there; and its values are given back."""
    done = agent(agent_house, "run", "--env", "A=secret://a.key", "--", "/etc/passwd")
    assert (done.returncode, done.stderr) == (126, b"error: /etc/passwd: Permission denied\n")
    assert [r.operation for r in agent_house.desk.requests] == ["resolve", "release"]


def test_a_script_without_a_first_line_is_the_shells(agent_house: AgentHouse, tmp_path: Path) -> None:
    """As when a shell starts it."""
    script = tmp_path / "script"
    script.write_text('echo "$1 $A"\n')
    script.chmod(0o755)
    done = agent(
        agent_house, "run", "--env", "A=secret://a.key", "--", "script", "x", PATH=f"{tmp_path}:{os.environ['PATH']}"
    )
    assert done.stdout == b"x [masked a.key]\n"


def test_a_refused_name_starts_nothing(agent_house: AgentHouse, tmp_path: Path) -> None:
    """One line says which, by what code and why, one what to do; the allowed one is given back."""
    started_file = tmp_path / "started"
    options = ("--env", "A=secret://a.key", "--env", "B=secret://no.key")
    done = agent(agent_house, "run", *options, "--", "touch", str(started_file))
    assert (done.returncode, done.stdout, started_file.exists()) == (1, b"", False)
    error, hint = done.stderr.decode().splitlines()
    assert error.startswith("error: nothing was started: no.key: denied; the audit says why")
    assert error.endswith("[denied]")
    assert hint.startswith("hint: `secret-agent list` shows what this run may ask for")
    assert agent_house.desk.leases[-1].ended == "released"


def test_people_are_waited_for_within_the_time(agent_house: AgentHouse) -> None:
    """Standard error says whose decision is waited for."""
    agent_house.desk.needs_approval.add("b.key")
    agent_house.desk.person = lambda approval: "approve"
    done = agent(agent_house, "run", "--timeout", "30", "--env", "B=secret://b.key", "--", "true")
    agent_house.desk.person = None
    approval = agent_house.desk.approvals[-1].approval_id
    assert done.stderr.decode() == (
        f"secret-agent: waiting for people to approve b.key (secret-broker approve {approval})\n"
    )
    assert done.returncode == 0


def test_who_is_tired_of_waiting_for_people_interrupts(agent_house: AgentHouse, tmp_path: Path) -> None:
    """Nothing is started; what was granted is given back."""
    agent_house.desk.needs_approval.add("b.key")
    options = ("--timeout", "60", "--env", "A=secret://a.key", "--env", "B=secret://b.key")
    going = Going(agent_house, [*options, "--", "touch", str(tmp_path / "started")])
    assert b"waiting for people to approve b.key" in going.stderr.readline()
    going.send_signal(signal.SIGINT)
    assert (going.wait(), going.stderr.read()) == (130, b"interrupted\n")
    assert not (tmp_path / "started").exists()
    assert agent_house.desk.leases[-1].ended == "released"
    going.stdout.close()
    going.stderr.close()


def test_a_run_whose_time_is_over_starts_nothing(agent_house: AgentHouse, tmp_path: Path) -> None:
    """And asks nothing."""
    run = RunCredential.from_json(agent_house.run.to_json())
    run.expires_at = 1_000
    over = tmp_path / "over.json"
    over.touch(0o600)
    over.write_text(run.to_json())
    done = agent(agent_house, "run", "--", "echo", "no", A="secret://a.key", SECRET_BROKER_CREDENTIAL_FILE=str(over))
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"error: nothing was started: this run's token is over: start the run again")
    assert agent_house.desk.requests == []


def test_bytes_pass_through_unchanged_and_the_two_streams_stay_apart(agent_house: AgentHouse) -> None:
    """Any bytes, to the end of standard input."""
    sent = os.urandom(1_000_000)
    done = agent(agent_house, "run", "--env", "A=secret://a.key", "--", "sh", "-c", "cat; echo err >&2", stdin=sent)
    assert (done.stdout == sent, done.stderr) == (True, b"err\n")


def test_streams_that_go_to_one_place_keep_their_order(agent_house: AgentHouse) -> None:
    """As with `2>&1`."""
    script = "for i in 1 2 3 4 5 6; do echo out$i; echo err$i >&2; done"
    done = subprocess.run(
        [*AGENT, "run", "--env", "A=secret://a.key", "--", "sh", "-c", script],
        env=agent_house.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=True,
    )
    assert done.stdout.split() == [f"{stream}{i}".encode() for i in range(1, 7) for stream in ("out", "err")]


def test_a_reader_that_goes_ends_the_command_as_in_any_pipe(agent_house: AgentHouse) -> None:
    """By SIGPIPE, and us with it."""
    with started(agent_house, "--env", "A=secret://a.key", "--", "sh", "-c", "echo ready; exec yes") as process:
        process.stdout.close()
        assert process.wait() == -signal.SIGPIPE


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux that is always full")
@pytest.mark.parametrize(("script", "expected"), [("echo lost", 1), ("echo lost; exit 3", 3)])
def test_output_that_does_not_fit_is_no_success(agent_house: AgentHouse, script: str, expected: int) -> None:
    """The command has written it and cannot know that the disk is full, so it is said and the exit code tells."""
    command = (*AGENT, "run", "--env", "A=secret://a.key", "--", "sh", "-c", script)
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command, env=agent_house.environ(), stdout=full, stderr=subprocess.PIPE, timeout=LONG, check=False
        )
    said = b"secret-agent: what the command wrote could not all be written: No space left on device\n"
    assert (done.returncode, done.stderr) == (expected, said)


def test_what_goes_on_in_the_background_is_not_waited_for(agent_house: AgentHouse) -> None:
    """Although it holds the command's streams; what the command had written is out."""
    done = agent(agent_house, "run", "--env", "A=secret://a.key", "--", "sh", "-c", "sleep 60 & echo $!; echo said")
    pid, said = done.stdout.split()
    os.kill(int(pid), signal.SIGKILL)
    assert (said, done.returncode) == (b"said", 0)


def test_signals_reach_the_command_and_it_decides(agent_house: AgentHouse) -> None:
    """What it does not die of does not end us; none is blocked for it."""
    script = (
        f"grep -q 'SigBlk:.0*$' /proc/self/status || exit; trap 'echo hup' HUP; trap 'echo usr; exit 9' USR1; {LOOP}"
    )
    with started(agent_house, "--env", "A=secret://a.key", "--", "sh", "-c", script) as process:
        process.send_signal(signal.SIGHUP)
        assert process.stdout.readline() == b"hup\n"
        process.send_signal(signal.SIGUSR1)
        assert (process.stdout.read(), process.wait()) == (b"usr\n", 9)


def test_a_value_that_is_taken_back_ends_the_command(agent_house: AgentHouse, tmp_path: Path) -> None:
    """By SIGTERM if nothing else is said, and what it started as well; people are told which one."""
    script = f"sh -c 'sleep 60; :' & echo $! > {tmp_path}/pid; {LOOP}"
    with started(agent_house, "--env", "A=secret://a.key", "--", "sh", "-c", script) as process:
        agent_house.tell(lambda: agent_house.desk.revoke("a.key"))
        assert process.wait() == -signal.SIGTERM
        pid = (tmp_path / "pid").read_text().strip()
        until(lambda: not Path(f"/proc/{pid}").exists() or "(zombie)" in Path(f"/proc/{pid}/status").read_text())
        told = b"secret-agent: a.key was revoked; the command is told to end (SIGTERM), and killed after 10 s\n"
        assert told in process.stderr.read()


def test_a_command_can_be_told_by_a_signal_of_its_choice(agent_house: AgentHouse) -> None:
    """It goes on as it likes."""
    script = f"trap 'echo told; exit 4' USR2; {LOOP}"
    with started(agent_house, "--on-revoke", "usr2", "--env", "A=secret://b.key", "--", "sh", "-c", script) as process:
        agent_house.tell(lambda: agent_house.desk.revoke("b.key"))
        assert process.wait() == 4
        assert process.stdout.read() == b"told\n"


def test_a_command_that_refers_to_nothing_takes_our_place(agent_house: AgentHouse) -> None:
    """Nobody is asked, no credential is needed, and none is handed on."""
    done = agent(agent_house, "run", "--", "sh", "-c", "echo $$; env | grep -c SECRET_BROKER")
    assert done.stdout.split()[1] == b"0"
    assert agent_house.desk.requests == []


def test_the_credential_is_handed_on_only_if_that_is_wanted(agent_house: AgentHouse) -> None:
    """The same file; or a descriptor, where it came by one or by the environment."""
    options = ("--keep-credential", "--env", "A=secret://a.key", "--", "sh", "-c")
    done = agent(agent_house, "run", *options, f"echo ${FILE_VARIABLE}")
    assert done.stdout.decode() == f"{agent_house.file}\n"
    environ = agent_house.environ(SECRET_BROKER_CREDENTIAL=agent_house.run.to_json())
    environ.pop(FILE_VARIABLE)
    script = 'echo "-$SECRET_BROKER_CREDENTIAL-"; eval "cat <&$SECRET_BROKER_CREDENTIAL_FD"'
    shown = subprocess.run([*AGENT, "run", *options, script], env=environ, capture_output=True, check=True).stdout
    assert shown.decode() == f"--\n{agent_house.run.to_json()}"


def test_a_value_that_cannot_be_masked_is_told_once_and_the_command_goes_on(agent_house: AgentHouse) -> None:
    """By its name."""
    done = agent(agent_house, "run", "--env", "A=secret://short", "--", "sh", "-c", "echo out $A; echo err $A >&2")
    assert done.stdout == b"out abc\n"
    told, err = done.stderr.splitlines()
    assert told.startswith(b"secret-agent: warning: the value of short is too short or too common to be masked")
    assert b"abc" not in told
    assert err == b"err abc"


def test_without_masking_the_command_has_our_own_streams(agent_house: AgentHouse, tmp_path: Path) -> None:
    """The very file that we were given."""
    with (tmp_path / "out").open("wb") as out:
        command = (
            "run",
            "--no-masking",
            "--env",
            "A=secret://a.key",
            "--",
            "sh",
            "-c",
            "readlink /proc/self/fd/1; echo $A",
        )
        subprocess.run([*AGENT, *command], env=agent_house.environ(), stdout=out, check=True)
    assert (tmp_path / "out").read_text() == f"{tmp_path / 'out'}\n{KEY}\n"


def test_much_output_takes_little_memory(agent_house: AgentHouse) -> None:
    """Nothing is kept of what has passed."""
    script = "head -c 150000000 /dev/zero; grep VmHWM /proc/$PPID/status >&2"
    with subprocess.Popen(
        [*AGENT, "run", "--env", "A=secret://a.key", "--", "sh", "-c", script],
        env=agent_house.environ(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        pipe = process.stdout.fileno()
        size = sum(len(chunk) for chunk in iter(lambda: os.read(pipe, 1 << 20), b""))
        peak = int(process.stderr.read().split()[1])
    assert size == 150_000_000
    assert peak < 110_000, "KiB, of which Python and the SDK are 45 000"
