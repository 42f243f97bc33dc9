"""`secret-agent run` on a terminal: as if it were not there, except that values are masked."""

import contextlib
import fcntl
import os
import re
import shlex
import signal
import struct
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_workbench import AGENT, AgentHouse, Forked, Screen, Started, screen, settings, until

RUN = shlex.join((*AGENT, "run", "--env", "A=secret://a.key", "--"))
PYTHON = shlex.quote(sys.executable)


@pytest.fixture
def shell(agent_house: AgentHouse) -> Iterator[Screen]:
    """An interactive bash with job control, whose prompt is counted."""
    environ = agent_house.environ(TERM="dumb", PS1=r"[\#]$ ")
    with screen(lambda inner: Forked(["bash", "--norc", "--noediting", "-i"], environ, inner)) as shell:
        shell.wait_for("[1]$ ")
        yield shell


@contextlib.contextmanager
def alone(house: AgentHouse, *command: str) -> Iterator[Screen]:
    """A command on a terminal, without a shell around it."""
    with screen(lambda inner: on(house, inner, "run", "--env", "A=secret://a.key", "--", *command)) as made:
        yield made


def on(house: AgentHouse, inner: int, *arguments: str) -> Started:
    """Start `secret-agent` as the leader of a session on a terminal."""
    return house.nursery.start(arguments, house.environ(TERM="dumb"), (inner, inner, inner), leads=True)


def is_raw(screen: Screen) -> bool:
    return not termios.tcgetattr(screen.descriptor)[3] & termios.ICANON


def test_a_command_finds_a_terminal_of_our_terminals_size(agent_house: AgentHouse) -> None:
    """On all three streams, and a change of size is told; what it shows is masked; no signal is blocked for it."""
    script = "import os,signal,sys; blocked = signal.pthread_sigmask(signal.SIG_BLOCK, []); "
    script += "print(*map(os.isatty, range(3)), os.environ['A'], blocked); "
    script += "show = lambda *_: print(*os.get_terminal_size(), flush=True); "
    script += "signal.signal(signal.SIGWINCH, show); show()\n"
    script += "while os.get_terminal_size().columns != 100: signal.sigtimedwait([], 0.05)\n"
    script += "os._exit(3)"
    with alone(agent_house, sys.executable, "-c", script) as made:
        fcntl.ioctl(made.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 77, 0, 0))
        os.kill(made.pid, signal.SIGWINCH)  # it is not our terminal's session, so the system does not say so
        assert made.wait_for("\r\n") == b"True True True [masked a.key] set()\r\n"
        made.wait_for("77 33\r\n")  # perhaps not at first: the command may run already when the size is set
        fcntl.ioctl(made.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        os.kill(made.pid, signal.SIGWINCH)
        made.wait_for("100 40\r\n")
        assert os.waitstatus_to_exitcode(made.end()) == 3


def test_keys_lines_and_the_end_of_input_reach_the_command(agent_house: AgentHouse) -> None:
    """The command's own terminal echoes, edits lines and ends the input; a value that is typed is masked too."""
    with alone(agent_house, "cat") as made:
        until(lambda: is_raw(made))
        made.type("helloo\x7f\n")
        made.wait_for("hello\r\n")
        made.type("\x1a")  # there is no shell that could continue us, so nothing stops
        made.wait_for("^Z")
        made.type("more\n")
        made.wait_for("more\r\nmore\r\n")
        made.type("\x04")
        assert made.end() == 0


def test_a_key_that_ends_ends_the_command_and_us_by_the_same_signal(agent_house: AgentHouse) -> None:
    """And the terminal is as it was."""
    with alone(agent_house, "sh", "-c", "echo started; exec cat") as made:
        made.wait_for("started\r\n")
        assert is_raw(made)
        made.type("\x1c")
        status = made.end()
        assert os.WTERMSIG(status) == signal.SIGQUIT
        assert settings(made.descriptor) == made.before


def test_a_command_that_was_ended_from_outside_leaves_the_terminal_as_it_was(agent_house: AgentHouse) -> None:
    """A signal to us reaches the command, whose end is ours."""
    with alone(agent_house, "sh", "-c", "echo started; exec cat") as made:
        made.wait_for("started\r\n")
        os.kill(made.pid, signal.SIGTERM)
        assert os.WTERMSIG(made.end()) == signal.SIGTERM
        assert settings(made.descriptor) == made.before


def test_a_terminal_that_hangs_up_ends_the_command(agent_house: AgentHouse, tmp_path: Path) -> None:
    """It is told as it would be (SIGHUP)."""
    script = f"trap 'echo hup > {tmp_path}/told; exit' HUP; echo started; while :; do sleep 0.05; done"
    with alone(agent_house, "sh", "-c", script) as made:
        made.wait_for("started\r\n")
        os.close(made.descriptor)
        made.descriptor = os.open(os.devnull, os.O_RDONLY)
        until((tmp_path / "told").exists)


def test_a_command_is_not_left_behind_when_we_are_killed(agent_house: AgentHouse) -> None:
    """The system hangs up its terminal."""
    with alone(agent_house, "sh", "-c", "echo $$ started; exec cat") as made:
        pid = int(made.wait_for("started\r\n").split()[0])
        os.kill(made.pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_a_command_is_suspended_and_continued_as_without_us(shell: Screen) -> None:
    """Ctrl-Z, jobs, fg; the shell's terminal is its own meanwhile."""
    shell.type(f"{RUN} cat\n")
    until(lambda: is_raw(shell))
    shell.type("one\n")
    shell.wait_for("one\r\none\r\n")
    shell.type("\x1a")
    assert re.search(rb"Stopped +.*run.* cat\r\n", shell.wait_for("[2]$ "))
    shell.type("stty -a | grep -c ' icanon.* echo '; jobs\n")
    shown = shell.wait_for("[3]$ ")
    assert b"Stopped" in shown
    shell.type("fg\n")
    until(lambda: is_raw(shell))
    shell.type("two\n")
    shell.wait_for("two\r\ntwo\r\n")
    shell.type("\x04")
    shell.wait_for("[4]$ ")
    shell.type("echo code $?\n")
    shell.wait_for("code 0\r\n")


def test_a_suspended_command_goes_on_in_the_background_and_comes_back(shell: Screen, tmp_path: Path) -> None:
    """Its output is shown, keys are the shell's until `fg`."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, time\n"
        "print('go', flush=True)\n"
        f"while not os.path.exists('{tmp_path}/on'): time.sleep(0.01)\n"
        "print('background', flush=True)\n"
        "print('got', input())\n"
    )
    shell.type(f"{RUN} {PYTHON} {program}\n")
    shell.wait_for("go\r\n")
    shell.type("\x1a")
    shell.wait_for("[2]$ ")
    shell.type("bg\n")
    (tmp_path / "on").touch()
    shell.wait_for("background\r")
    shell.type("echo still the she''ll\n")
    shell.wait_for("still the shell\r\n")
    shell.type("fg\n")
    until(lambda: is_raw(shell))
    shell.type("it\n")
    shell.wait_for("got it\r\n")


def test_a_terminal_that_closes_ends_a_command_in_the_background_too(shell: Screen, tmp_path: Path) -> None:
    """The system tells only a terminal's foreground; the command's own terminal must not outlive the user's."""
    shell.type(f"{RUN} sh -c 'echo $$ $PPID > {tmp_path}/pids; echo go; read x'\n")
    shell.wait_for("go\r\n")
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    shell.type("\x1a")
    shell.wait_for("[2]$ ")
    shell.type("bg\n")
    shell.wait_for("[3]$ ")
    os.kill(shell.pid, signal.SIGKILL)  # so that no shell passes the news on to its jobs
    with Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), shell.descriptor)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_a_command_that_is_started_in_the_background_is_stopped_when_it_reads(shell: Screen) -> None:
    """By the system, as any other; `fg` gives it the keys."""
    shell.type(f"{RUN} sh -c 'read x; echo got $x' &\n")
    shell.wait_for("[2]$ ")
    shell.type("wait %1\n")
    shell.wait_for("[3]$ ")
    shell.type("jobs; echo look''ed\n")
    assert b"Stopped" in shell.wait_for("looked\r\n")
    shell.type("fg\n")
    shell.type("it\n")
    shell.wait_for("got it\r\n")


def test_an_interactive_shell_as_the_command_has_jobs_of_its_own(shell: Screen) -> None:
    """Its keys suspend its jobs; `suspend` suspends it, and us with it."""
    shell.type(f"PS1='in''ner$ ' {RUN} bash --norc -i\n")
    shell.wait_for("inner$ ")
    shell.type("sh -c 'echo jo''b $A; exec sleep 60'\n")  # it has the terminal by then
    shell.wait_for("job [masked a.key]\r\n")
    shell.type("\x1a")
    assert b"Stopped" in shell.wait_for("inner$ ")
    shell.type("kill -9 %1; suspend\n")
    shell.wait_for("[2]$ ")
    shell.type("fg\n")
    shell.wait_for("bash --norc -i")
    shell.type("exit 7\n")
    shell.wait_for("[3]$ ")
    shell.type("echo code $?\n")
    shell.wait_for("code 7\r\n")


def test_in_a_pipeline_only_the_output_goes_through_us(shell: Screen) -> None:
    """A stream that is a terminal stays one, the other is a pipe, keys are the real terminal's."""
    shell.type(f"echo in | {RUN} sh -c 'cat; test -t 1 && echo tty $A; test -t 2 && echo $A >&2; exec sleep 60'\n")
    shell.wait_for("in\r\ntty [masked a.key]\r\n[masked a.key]\r\n")
    shell.type("\x1a")
    assert b"Stopped" in shell.wait_for("[2]$ ")
    shell.type("fg\n")
    until(lambda: os.tcgetpgrp(shell.descriptor) != shell.pid)
    shell.type("\x03")
    shell.wait_for("[3]$ ")
    shell.type("echo code $?\n")
    shell.wait_for("code 130\r\n")
    shell.type(f"{RUN} sh -c 'test -t 1 || echo pipe $A; test -t 2 && echo tty >&2' | tr a-z A-Z; echo do''ne\n")
    shown = shell.wait_for("done\r\n").replace(b"\r\n", b"\n")
    assert b"PIPE [MASKED A.KEY]\n" in shown
    assert b"tty\n" in shown


def test_a_key_that_reaches_the_command_by_itself_is_not_passed_on_again(shell: Screen, tmp_path: Path) -> None:
    """In a pipeline the terminal tells all of it; what a process sends to us is passed on."""
    program = tmp_path / "program.py"
    program.write_text(
        "import os, signal\n"
        "signal.signal(signal.SIGINT, lambda *_: print('int', flush=True))\n"
        "signal.signal(signal.SIGUSR1, lambda *_: (print('usr', flush=True), os._exit(0)))\n"
        "print('up', os.getppid(), flush=True)\n"
        "while True: signal.pause()\n"
    )
    shell.type(f"echo | {RUN} {PYTHON} {program}\n")
    shell.wait_for("up ")
    pid = int(shell.wait_for("\r\n"))
    shell.type("\x03")
    shell.wait_for("int\r\n")
    os.kill(pid, signal.SIGUSR1)
    assert b"int" not in shell.wait_for("usr\r\n")


def test_a_command_that_cannot_be_started_leaves_the_terminal_as_it_was(agent_house: AgentHouse) -> None:
    """127, as in a shell."""
    with alone(agent_house, "no-such-program") as made:
        made.wait_for("error: no-such-program: command not found\r\n")
        assert os.waitstatus_to_exitcode(made.end()) == 127
        assert settings(made.descriptor) == made.before


def test_a_value_is_shown_on_a_terminal_only_by_force(agent_house: AgentHouse) -> None:
    """`get` says what else there is."""
    with screen(lambda inner: on(agent_house, inner, "get", "a.key")) as made:
        made.wait_for("error: standard output is a terminal")
        assert os.waitstatus_to_exitcode(made.end()) == 2
        assert b"sk-live" not in made.shown
