"""What every provider must do, as tests: subclass `ProviderConformance` and give it a `subject`.

A provider that passes can be put behind the pipeline without the pipeline knowing it.
"""

import asyncio
import re
import traceback
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

import pytest

from broker_worker.core.errors import FailureKind, ProviderError
from broker_worker.ports import CredentialedProvider, Fetched, MeteredProvider, Provider, ScopeReporter

CANARY = "canary-7c1e55"
"""Part of every text value, so that a leak is found wherever it shows."""
MAX_VALUE = 128 * 1024


@dataclass(frozen=True)
class Subject:
    """A provider and what its vault holds.

    Args:
        provider: the one under test.
        values: what is stored: at least 500 references and their values, each with `CANARY` in it.
        unknown: a well-formed reference of nothing.
        malformed: references of the provider's scheme that cannot be meant, and one of another scheme.
        largest: a reference to a value of `largest_bytes`.
        too_large: a reference to a larger one; None if the vault itself refuses such.
        binary: a reference to `BINARY`; None if the vault holds only texts.
        writable: a reference that can be written; None if the provider is read-only.
        creatable: a reference of nothing that can be written; None if the provider is read-only.
        break_vault: makes the vault unusable; None if nothing can.
        largest_bytes: how much a place of this vault can hold, at most 128 KiB.
    """

    provider: Provider
    values: Mapping[str, bytes] = field(repr=False)
    unknown: str
    malformed: tuple[str, ...]
    largest: str
    too_large: str | None = None
    binary: str | None = None
    writable: str | None = None
    creatable: str | None = None
    break_vault: Callable[[], None] | None = None
    largest_bytes: int = MAX_VALUE

    def some(self, count: int) -> list[str]:
        """The first `count` stored references."""
        return list(self.values)[:count]


BINARY = b"\xff\x00\xfe\n\x80"


def everything_said(thing: object) -> str:
    """All that a log, a traceback or a debugger's summary could show of a value or an error, its chain included."""
    said = [str(thing), repr(thing)]
    if isinstance(thing, BaseException):
        said += [repr(thing.args), repr(vars(thing)), *traceback.format_exception(thing)]
        for linked in (thing.__cause__, thing.__context__):
            if linked is not None:
                said.append(everything_said(linked))
    return "\n".join(said)


async def failure_of(awaitable: Awaitable[object]) -> ProviderError:
    """The `ProviderError` that something raises."""
    with pytest.raises(ProviderError) as caught:
        await awaitable
    return caught.value


class ProviderConformance:
    """The contract of `broker_worker.ports.Provider`, one behaviour a test."""

    async def test_every_value_arrives_as_it_is_stored(self, subject: Subject) -> None:
        """Five hundred references in one call are all answered, each with its own value."""
        answers = await subject.provider.get_many(list(subject.values))
        assert {ref: a.value for ref, a in answers.items() if isinstance(a, Fetched)} == subject.values

    async def test_nothing_asked_is_nothing_answered(self, subject: Subject) -> None:
        """An empty sequence gives an empty answer."""
        assert await subject.provider.get_many([]) == {}

    async def test_unknown_reference_is_not_found(self, subject: Subject) -> None:
        """A well-formed reference of nothing is answered with `NOT_FOUND`."""
        answer = (await subject.provider.get_many([subject.unknown]))[subject.unknown]
        assert isinstance(answer, ProviderError)
        assert answer.kind is FailureKind.NOT_FOUND
        assert answer.hint

    async def test_malformed_references_are_refused(self, subject: Subject) -> None:
        """Each reference that cannot be meant is answered with `BAD_REFERENCE`."""
        answers = await subject.provider.get_many(subject.malformed)
        assert set(answers) == set(subject.malformed)
        assert {a.kind for a in answers.values() if isinstance(a, ProviderError)} == {FailureKind.BAD_REFERENCE}

    async def test_bad_references_cost_good_ones_nothing(self, subject: Subject) -> None:
        """In a mixed batch every good reference still gets its value, and every reference an answer."""
        good = subject.some(3)
        refs = [good[0], subject.unknown, good[1], *subject.malformed, good[2]]
        answers = await subject.provider.get_many(refs)
        assert set(answers) == set(refs)
        assert [answers[ref] for ref in good] == [Fetched(subject.values[r], _version(answers[r])) for r in good]

    async def test_largest_value_arrives(self, subject: Subject) -> None:
        """A value as large as the vault holds arrives whole."""
        answer = (await subject.provider.get_many([subject.largest]))[subject.largest]
        assert isinstance(answer, Fetched)
        assert len(answer.value) == subject.largest_bytes

    async def test_larger_value_is_too_large(self, subject: Subject) -> None:
        """A value of more than 128 KiB is answered with `TOO_LARGE`, and the others of its batch arrive."""
        if subject.too_large is None:
            pytest.skip("this vault does not take such a value")
        good = subject.some(1)[0]
        answers = await subject.provider.get_many([subject.too_large, good])
        error = answers[subject.too_large]
        assert isinstance(error, ProviderError)
        assert error.kind is FailureKind.TOO_LARGE
        assert isinstance(answers[good], Fetched)

    async def test_bytes_that_are_no_text_arrive(self, subject: Subject) -> None:
        """A value that is not UTF-8 arrives byte by byte."""
        if subject.binary is None:
            pytest.skip("this vault holds only texts")
        answer = (await subject.provider.get_many([subject.binary]))[subject.binary]
        assert isinstance(answer, Fetched)
        assert answer.value == BINARY

    async def test_no_value_in_what_can_be_printed(self, subject: Subject) -> None:
        """Neither answers nor the provider show a value or a part of one."""
        refs = [*subject.some(5), subject.unknown, *subject.malformed, subject.largest]
        answers = await subject.provider.get_many(refs)
        said = [everything_said(thing) for thing in (subject.provider, answers, *answers.values())]
        assert CANARY not in "\n".join(said)

    async def test_calls_at_once_do_not_mix_up(self, subject: Subject) -> None:
        """Thirty calls at once get each its own values."""
        refs = list(subject.values)
        calls = [refs[start : start + 7] for start in range(30)]
        answers = await asyncio.gather(*(subject.provider.get_many(call) for call in calls))
        for call, answer in zip(calls, answers, strict=True):
            assert [_value(answer[ref]) for ref in call] == [subject.values[ref] for ref in call]

    async def test_cancelled_call_leaves_it_usable(self, subject: Subject) -> None:
        """After calls were cancelled at different moments the next one is served."""
        refs = subject.some(100)
        for steps in range(4):
            call = asyncio.ensure_future(subject.provider.get_many(refs))
            for _ in range(steps):
                await asyncio.sleep(0)
            call.cancel()
            await asyncio.gather(call, return_exceptions=True)
        answers = await subject.provider.get_many(refs)
        assert all(isinstance(answer, Fetched) for answer in answers.values())

    async def test_write_or_a_clear_no(self, subject: Subject) -> None:
        """What is put is read back with its version; a read-only provider answers `READ_ONLY`."""
        if subject.writable is None:
            ref = subject.some(1)[0]
            error = await failure_of(subject.provider.put(ref, CANARY.encode()))
            assert error.kind is FailureKind.READ_ONLY
            assert CANARY not in everything_said(error)
            return
        version = await subject.provider.put(subject.writable, b"new " + CANARY.encode())
        answer = (await subject.provider.get_many([subject.writable]))[subject.writable]
        assert answer == Fetched(b"new " + CANARY.encode(), version)

    async def test_create_only_creates_once(self, subject: Subject) -> None:
        """With an empty `expected` a place that holds nothing is written, and then is left as it is."""
        if subject.creatable is None:
            pytest.skip("this provider is read-only")
        provider, ref, first = subject.provider, subject.creatable, b"first " + CANARY.encode()
        version = await provider.put(ref, first, expected="")
        error = await failure_of(provider.put(ref, b"second " + CANARY.encode(), expected=""))
        assert error.kind is FailureKind.CONFLICT
        assert CANARY not in everything_said(error)
        assert (await provider.get_many([ref]))[ref] == Fetched(first, version)

    async def test_replaces_only_the_expected_version(self, subject: Subject) -> None:
        """The current version may be replaced; with one that is no longer current nothing is written."""
        if subject.writable is None:
            pytest.skip("this provider is read-only")
        provider, ref = subject.provider, subject.writable
        before = await provider.put(ref, b"before")
        assert before is not None
        after = await provider.put(ref, b"after", expected=before)
        assert after != before
        error = await failure_of(provider.put(ref, b"too late " + CANARY.encode(), expected=before))
        assert error.kind is FailureKind.CONFLICT
        assert CANARY not in everything_said(error)
        assert (await provider.get_many([ref]))[ref] == Fetched(b"after", after)

    async def test_an_expected_version_of_nothing_is_a_conflict(self, subject: Subject) -> None:
        """Nothing is created where a version was expected."""
        if subject.creatable is None:
            pytest.skip("this provider is read-only")
        error = await failure_of(subject.provider.put(subject.creatable, b"x", expected="1"))
        assert error.kind is FailureKind.CONFLICT
        answer = (await subject.provider.get_many([subject.creatable]))[subject.creatable]
        assert isinstance(answer, ProviderError)

    async def test_of_two_writers_one_wins(self, subject: Subject) -> None:
        """Of eight that create the same at once one succeeds, and its value is what is there."""
        if subject.creatable is None:
            pytest.skip("this provider is read-only")
        provider, ref = subject.provider, subject.creatable
        values = [f"writer {number}".encode() for number in range(8)]
        outcomes = await asyncio.gather(
            *(provider.put(ref, value, expected="") for value in values), return_exceptions=True
        )
        failures = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert {failure.kind for failure in failures if isinstance(failure, ProviderError)} == {FailureKind.CONFLICT}
        assert len(failures) == len(values) - 1
        (won,) = [index for index, outcome in enumerate(outcomes) if not isinstance(outcome, BaseException)]
        assert _value((await provider.get_many([ref]))[ref]) == values[won]

    async def test_healthy_when_it_serves(self, subject: Subject) -> None:
        """A provider that can serve says so, and shows no value doing it."""
        health = await subject.provider.health()
        assert health.ok
        assert health.detail
        assert CANARY not in everything_said(health)

    async def test_unwell_when_its_vault_is_broken(self, subject: Subject) -> None:
        """With an unusable vault `health` says no with a hint and does not raise; `get_many` raises a typed error."""
        if subject.break_vault is None:
            pytest.skip("nothing can break this vault")
        subject.break_vault()
        health = await subject.provider.health()
        assert not health.ok
        assert health.hint
        error = await failure_of(subject.provider.get_many(subject.some(1)))
        assert CANARY not in everything_said(error)

    async def test_closing_twice_is_closing_once(self, subject: Subject) -> None:
        """`close` can be called again, and no value comes out afterwards."""
        await subject.provider.close()
        await subject.provider.close()
        try:
            answers = await subject.provider.get_many(subject.some(2))
        except ProviderError:
            return
        assert not [answer for answer in answers.values() if isinstance(answer, Fetched)]

    async def test_what_it_sees_is_told_by_name(self, subject: Subject) -> None:
        """A provider that can tell what its credential reaches tells names, and nothing that every reference needs."""
        if not isinstance(subject.provider, ScopeReporter):
            pytest.skip("this provider cannot tell what it sees")
        scope = await subject.provider.visible([*subject.values, subject.largest], ())
        if scope is not None:
            assert scope.noun
            assert scope.hint
            assert CANARY not in everything_said(scope)
            assert not {ref.partition("://")[2] for ref in subject.values} & set(scope.beyond)

    async def test_what_a_call_costs_grows_with_it(self, subject: Subject) -> None:
        """A provider whose vault counts reads otherwise than one a reference says at least one, and never fewer."""
        if not isinstance(subject.provider, MeteredProvider):
            pytest.skip("one read a reference")
        costs = [subject.provider.reads_of(subject.some(count)) for count in range(1, 60)]
        assert costs == sorted(costs)
        assert costs[0] >= 1

    async def test_a_fingerprint_tells_nothing(self, subject: Subject) -> None:
        """It is short, the same for the same credential, and another one with another salt."""
        if not isinstance(subject.provider, CredentialedProvider):
            pytest.skip("this provider has no credential that can be replaced")
        one, again, other = (subject.provider.fingerprint(salt) for salt in (bytes(16), bytes(16), bytes(range(16))))
        assert one == again != other
        assert len(one) == len(other) == 16

    async def test_it_has_a_name(self, subject: Subject) -> None:
        """The name is a type of `broker.yaml`, as the audit records it."""
        assert re.fullmatch("[a-z][a-z0-9-]{1,31}", subject.provider.name)


def _value(answer: Fetched | ProviderError) -> bytes | None:
    return answer.value if isinstance(answer, Fetched) else None


def _version(answer: Fetched | ProviderError) -> str | None:
    return answer.version if isinstance(answer, Fetched) else None
