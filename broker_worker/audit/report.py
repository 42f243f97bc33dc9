"""What a verification of the audit found."""

from dataclasses import dataclass, field

from agent_sdk.wire.audit_chain import Finding

MAX_FINDINGS = 1000


@dataclass(slots=True)
class Report:
    """What a verification found.

    Args:
        workers: how many workers' audits there are.
        chains: how many chains with lines.
        files: how many files.
        lines: how many lines.
        checkpoints: how many of them are valid checkpoints.
        findings: what is wrong, at most `MAX_FINDINGS`.
        more: how many findings there were beyond those.
    """

    workers: int = 0
    chains: int = 0
    files: int = 0
    lines: int = 0
    checkpoints: int = 0
    findings: list[Finding] = field(default_factory=list)
    more: int = 0

    @property
    def problems(self) -> list[Finding]:
        """The findings that an honest broker cannot have caused."""
        return [finding for finding in self.findings if not finding.is_warning]

    @property
    def warnings(self) -> list[Finding]:
        """The findings that a crash can have left behind."""
        return [finding for finding in self.findings if finding.is_warning]

    @property
    def ok(self) -> bool:
        """Whether there are no problems."""
        return not self.problems and not self.more

    def add(self, *findings: Finding) -> None:
        """Take findings up to the bound."""
        room = MAX_FINDINGS - len(self.findings)
        self.findings += findings[:room]
        self.more += max(0, len(findings) - room)
