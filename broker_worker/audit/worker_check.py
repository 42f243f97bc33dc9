"""Verifies one worker's chains: each from its first line to its last, and that each begins where the last one ended."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from agent_sdk.wire.audit import GENESIS, MAX_LINE, decode_line
from agent_sdk.wire.audit_chain import Anchor, ChainVerifier, Fault, Finding
from agent_sdk.wire.errors import WireError
from broker_worker.audit.chain_files import ChainFile, iterate_lines
from broker_worker.audit.report import Report


class WorkerCheck:
    """The verification of one worker.

    Args:
        identity_public_key: the broker's Ed25519 identity, 32 bytes.
        worker: whose chains.
        anchors: per chain, checkpoints that it must hold.
        report: takes what is found.
        allow_pruned: whether the oldest files may be missing.
    """

    def __init__(
        self,
        identity_public_key: bytes,
        worker: str,
        anchors: Mapping[str, Sequence[Anchor]],
        report: Report,
        *,
        allow_pruned: bool,
    ) -> None:
        self._identity = identity_public_key
        self._worker = worker
        self._anchors = anchors
        self._report = report
        self._allow_pruned = allow_pruned
        self.has_checkpoints = False
        """Whether there was a valid checkpoint, so that there must be a head."""

    def run(self, files: Sequence[ChainFile]) -> None:
        """Verify the chains in these files, which are in order.

        Raises:
            OSError: if a file cannot be read.
        """
        self._report.workers += 1
        chains = [(chain, list(found)) for chain, found in groupby(files, key=lambda file: file.chain)]
        oldest = chains[0][0] if chains and self._allow_pruned else ""
        for chain in sorted(set(self._anchors) - {chain for chain, _ in chains}):
            if chain < oldest:
                continue
            sources = " and ".join(anchor.source for anchor in self._anchors[chain])
            detail = f"no file of chain {chain} is there, but {sources} holds a signed checkpoint of it"
            self._report.add(Finding(Fault.MISSING_FILE, self._worker, 0, None, detail))
        firsts = [_first_prev(found) for _, found in chains]
        is_first = True
        for index, (chain, found) in enumerate(chains):
            following = next((prev for prev in firsts[index + 1 :] if prev is not None), None)
            self._check_chain(chain, found, firsts[index], following)
            if firsts[index] is not None and is_first:
                is_first = False
                self._check_beginning(found[0], firsts[index])

    def _check_beginning(self, file: ChainFile, prev: str | None) -> None:
        if file.first == 0 and prev != GENESIS and not self._allow_pruned:
            detail = "this chain continues another one, which is not there (archived? --allow-pruned)"
            self._report.add(Finding(Fault.UNLINKED, file.path.name, 1, 0, detail))

    def _check_chain(self, chain: str, files: Sequence[ChainFile], first: str | None, link: str | None) -> None:
        """Verify a chain.

        Args:
            chain: its id.
            files: its files in order.
            first: the `prev` with which it begins; None if that cannot be read.
            link: the hash of the line after which the next chain goes on; None if there is none.
        """
        start = files[0].first if self._allow_pruned else 0
        verifier = ChainVerifier(
            self._identity, chain, self._worker, sequence=start, anchors=self._anchors.get(chain, ())
        )
        watch = _Link(link, first, verifier)
        lines = 0
        for file in files:
            lines += self._check_file(file, verifier, watch, is_last=file is files[-1])
        newest = files[-1].path.name
        self._report.add(*(finding if finding.file else replace(finding, file=newest) for finding in verifier.finish()))
        self._report.chains += 1 if lines else 0
        self._report.checkpoints += verifier.checkpoints
        self.has_checkpoints |= verifier.checkpoints > 0
        if link is not None and lines:
            self._report.add(*watch.finish(newest))

    def _check_file(self, file: ChainFile, verifier: ChainVerifier, watch: "_Link", *, is_last: bool) -> int:
        name = file.path.name
        if file.first > verifier.next_sequence:
            detail = f"lines {verifier.next_sequence} to {file.first - 1} are missing: the file before this one"
            self._report.add(Finding(Fault.MISSING_FILE, name, 0, file.first, detail))
            verifier.skip_to(file.first)
        number = 0
        for number, (line, is_whole) in enumerate(_lines_of(file.path), 1):
            if is_whole or len(line) > MAX_LINE:
                self._report.add(*verifier.feed(line, name, number))
                watch.look(name, number)
            else:
                fault = Fault.TORN if is_last else Fault.UNREADABLE
                self._report.add(Finding(fault, name, number, None, f"{len(line)} bytes without a line feed"))
        self._report.files += 1
        self._report.lines += number
        return number


class _Link:
    """Watches for the line after which the next chain goes on."""

    def __init__(self, link: str | None, first: str | None, verifier: ChainVerifier) -> None:
        self._link = link
        self._verifier = verifier
        self._found = link == first  # not even the first batch became durable
        self._after = 0
        self._place = ("", 0)

    def look(self, name: str, number: int) -> None:
        if self._link is None:
            return
        if self._found:
            if not self._after:
                self._place = (name, number)
            self._after += 1
        elif self._verifier.prev == self._link:
            self._found = True

    def finish(self, name: str) -> Iterator[Finding]:
        if not self._found:
            detail = "the worker's next chain continues after a line that this one does not have: its end was changed"
            yield Finding(Fault.UNLINKED, name, 0, None, detail)
        elif self._after:
            detail = f"{self._after} lines were given up: they could not be made durable, and nothing was released"
            yield Finding(Fault.ABANDONED, *self._place, None, detail)


def _first_prev(files: Sequence[ChainFile]) -> str | None:
    """The `prev` with which a chain begins; None if that line cannot be read."""
    for line, _ in _lines_of(files[0].path):
        try:
            return decode_line(line).prev
        except WireError:
            return None
    return None


def _lines_of(path: Path) -> Iterator[tuple[bytes, bool]]:
    with path.open("rb") as file:
        yield from iterate_lines(file, path.stat().st_size)
