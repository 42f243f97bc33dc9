"""What the demo prints: acts, one line an event, and claims that were checked."""

import os
import sys
import textwrap
import time

import click

from agent_sdk.cli.error_group import printable

WIDTH = 100
_REST = 3 + 15 + 21 + 16
_COLOURS = {"granted": "green", "denied": "red", "unauthenticated": "red", "revoked": "red", "approval_denied": "red"}


class Stage:
    """Prints, and counts which claims held."""

    def __init__(self) -> None:
        self.held = 0
        self.failed = 0
        self._began = time.monotonic()
        self.has_person = sys.stdin.isatty() and sys.stdout.isatty()
        """Whether somebody sits at a terminal."""
        self._colour = False if os.environ.get("NO_COLOR") else None  # None: colour on a terminal only

    @property
    def seconds(self) -> float:
        """For how long it goes on."""
        return time.monotonic() - self._began

    def act(self, number: int, title: str, about: str) -> None:
        """Begin an act: its title, and what is going to happen."""
        self.say()
        self.say(click.style(f"{number}  {title}", bold=True))
        self.note(about)

    def note(self, text: str) -> None:
        """Explain something, in whole lines."""
        for line in textwrap.wrap(text, WIDTH - 3):
            self.say(click.style(f"   {line}", dim=True))

    def row(self, who: str, what: str, outcome: str, rest: str) -> None:
        """One event in columns: who, what, what came of it, and the rest, on more lines where it is long."""
        coloured = click.style(f"{outcome:<16}", fg=_COLOURS.get(outcome.rpartition(" ")[2], "yellow"))
        first, *others = textwrap.wrap(printable(rest), WIDTH - _REST) or [""]
        self.say(f"   {printable(who):<15}{printable(what):<21}{coloured}{first}".rstrip())
        for more in others:
            self.say(" " * _REST + more)

    def text(self, text: str) -> None:
        """A text that may be longer than a line."""
        for line in textwrap.wrap(printable(text), WIDTH, initial_indent="   ", subsequent_indent="     "):
            self.say(line)

    def lines(self, text: str) -> None:
        """What a command printed, line by line as it is."""
        for line in text.splitlines():
            self.say(f"   {printable(line)}".rstrip())

    def check(self, holds: bool, claim: str, otherwise: str = "") -> None:
        """State a claim and whether it holds.

        Args:
            holds: whether it does.
            claim: what is claimed, with the figures that were found.
            otherwise: what was found instead, shown if it does not hold.
        """
        if holds:
            self.held += 1
        else:
            self.failed += 1
        word = click.style("ok    ", fg="green") if holds else click.style("FAILED", fg="red", bold=True)
        first, *others = textwrap.wrap(claim if holds or not otherwise else f"{claim} ({otherwise})", WIDTH - 11)
        self.say(f"   {word}  {first}")
        for line in others:
            self.say(f"           {line}")

    def say(self, line: str = "") -> None:
        """Print a line."""
        click.echo(line, color=self._colour)


def duration(seconds: float) -> str:
    """A duration for people."""
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
