"""The sealed cache's key in a TPM 2.0: a real stack on an emulated chip (swtpm); skipped where there is none."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from sealed_workbench import BINDING, CANARY, FIRST, REFS, SECOND, Host, record

from broker_worker.cache.sealed.errors import RefusedError, UnavailableError
from broker_worker.cache.sealed.tpm import TpmWrapping

tss: Any = import_module("tpm2_pytss") if find_spec("tpm2_pytss") else None
MISSING = " and ".join(
    name
    for name, is_there in (
        ("swtpm (apt install swtpm)", shutil.which("swtpm") is not None),
        ("tpm2-pytss (apt install libtss2-dev, pip install tpm2-pytss)", tss is not None),
    )
    if not is_there
)
pytestmark = [pytest.mark.tpm, pytest.mark.skipif(bool(MISSING), reason=f"needs {MISSING}")]
DEADLINE = 45.0
PORTS = iter(range(20_000 + os.getpid() % 180 * 64, 32_000, 2))
"""Each test process begins elsewhere, below what the system gives to anybody who asks; none is used twice."""


class Chip:
    """An emulated TPM.

    Args:
        state: what it keeps over a restart.
    """

    def __init__(self, state: Path) -> None:
        state.mkdir(exist_ok=True)
        self._state = state
        for self.port in PORTS:
            if self.start():
                return
        raise AssertionError("swtpm does not start")

    @property
    def tcti(self) -> str:
        """How it is reached."""
        return f"swtpm:host=127.0.0.1,port={self.port}"

    def start(self) -> bool:
        """Switch it on; whether its ports were free."""
        place = "type=tcp,bindaddr=127.0.0.1,port="
        command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self._state}", "--server", f"{place}{self.port}"]
        command += ["--ctrl", f"{place}{self.port + 1}", "--flags", "not-need-init,startup-clear"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + DEADLINE
        while self._process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port + 1)) == 0:
                    return True
            assert time.monotonic() < end, "swtpm does not listen"
            time.sleep(0.01)
        return False

    def stop(self) -> None:
        """Switch it off."""
        self._process.terminate()
        self._process.wait(DEADLINE)


@pytest.fixture
def chip(tmp_path: Path) -> Iterator[Chip]:
    """A TPM that was never used."""
    chip = Chip(tmp_path / "tpm")
    yield chip
    chip.stop()


def tpm_host(folder: Path, chip: Chip, pcrs: tuple[int, ...] = ()) -> Host:
    return Host(folder / "home", master_key="tpm", makers={"tpm": lambda: TpmWrapping(chip.tcti, pcrs)})


def indices(chip: Chip) -> list[int]:
    """The NV indices of the owner's range."""
    with tss.ESAPI(chip.tcti) as tpm:
        _, found = tpm.get_capability(tss.TPM2_CAP.HANDLES, 0x01800000, 32)
        return [int(handle) for handle in found.data.handles if int(handle) <= 0x01BFFFFF]


def extend(chip: Chip, pcr: int) -> None:
    """Boot something else, as far as a register tells."""
    with tss.ESAPI(chip.tcti) as tpm:
        digest = tss.TPMT_HA(hashAlg=tss.TPM2_ALG.SHA256, digest=tss.TPMU_HA(sha256=b"\x11" * 32))
        tpm.pcr_extend(tss.ESYS_TR(pcr), tss.TPML_DIGEST_VALUES([digest]))


@pytest.mark.parametrize("pcrs", [(), (7, 11)])
def test_values_survive_restarts_of_broker_and_machine(tmp_path: Path, chip: Chip, pcrs: tuple[int, ...]) -> None:
    """The chip gives the key back after it was off, as long as the same thing booted."""
    host = tpm_host(tmp_path, chip, pcrs)
    host.keep(record(), is_last=True)
    assert host.values() == {FIRST: CANARY}
    chip.stop()
    assert chip.start()
    assert host.values() == {FIRST: CANARY}
    assert not host.count.exists()
    assert host.store().open(REFS, BINDING).kind == "tpm"


def test_another_machine_is_refused(tmp_path: Path, chip: Chip) -> None:
    """Its chip does not know the key, even if everything on disk was copied and both say they are one host."""
    host = tpm_host(tmp_path, chip)
    host.keep(record())
    other = Chip(tmp_path / "other")
    try:
        host.makers = {"tpm": lambda: TpmWrapping(other.tcti)}
        assert "the TPM refuses" in host.refusal()
    finally:
        other.stop()


def test_another_boot_is_refused(tmp_path: Path, chip: Chip) -> None:
    """With registers named, a change of one of them and of no other; the cache then begins anew."""
    host = tpm_host(tmp_path, chip, (7,))
    host.keep(record(), is_last=True)
    extend(chip, 8)
    assert host.values() == {FIRST: CANARY}
    extend(chip, 7)
    assert "the TPM refuses" in host.refusal()
    assert len(indices(chip)) == 1


def test_whole_disk_put_back_is_refused(tmp_path: Path, chip: Chip) -> None:
    """File, key and all: the chip's counter cannot be put back."""
    host = tpm_host(tmp_path, chip)
    store = host.keep(record(), is_last=True)
    shutil.copytree(tmp_path / "home", tmp_path / "older")
    store.commit({FIRST: record(value=b"rotated", at=host.now + 1), SECOND: record(SECOND)}, 100, is_last=True)
    host.now += 2
    assert set(host.values()) == {FIRST, SECOND}
    shutil.rmtree(tmp_path / "home")
    shutil.copytree(tmp_path / "older", tmp_path / "home")
    assert "older copy" in host.refusal()


def test_cleared_cache_leaves_nothing_in_the_chip(tmp_path: Path, chip: Chip) -> None:
    """Its counter is gone, so that a copy of everything else does not open either."""
    host = tpm_host(tmp_path, chip)
    host.keep(record(), is_last=True)
    shutil.copytree(tmp_path / "home", tmp_path / "older")
    assert len(indices(chip)) == 1
    host.store().clear()
    assert indices(chip) == []
    shutil.rmtree(tmp_path / "home")
    shutil.copytree(tmp_path / "older", tmp_path / "home")
    assert "the TPM refuses" in host.refusal()


def test_counter_takes_its_key(tmp_path: Path, chip: Chip) -> None:
    """Nobody without the sealed key can move it, or pass another one off as it."""
    wrapping = TpmWrapping(chip.tcti)
    wrapped = wrapping.make()
    counter, stranger = (
        wrapping.counter(wrapped.parameters, wrapped.key),
        wrapping.counter(wrapped.parameters, bytes(32)),
    )
    assert counter is not None
    assert stranger is not None
    before = counter.value()
    for step in (stranger.advance, stranger.value):
        with pytest.raises(RefusedError, match="authorization failure"):
            step()
    counter.advance()
    assert counter.value() == before + 1
    assert counter.interval_seconds == 900


def test_chip_that_is_away_costs_nothing(tmp_path: Path, chip: Chip) -> None:
    """What is on disk stays until it is back."""
    host = tpm_host(tmp_path, chip)
    host.keep(record(), is_last=True)
    chip.stop()
    with pytest.raises(UnavailableError, match="no TPM that answers at swtpm:") as caught:
        host.store().open(REFS, BINDING)
    assert "group tss" in caught.value.hint
    assert chip.start()
    assert host.values() == {FIRST: CANARY}
    with pytest.raises(UnavailableError, match="no TPM that answers at nonsense"):
        TpmWrapping("nonsense").make()


def test_owner_password_is_said(chip: Chip) -> None:
    """Who has set one must not think that the cache is sealed."""
    with tss.ESAPI(chip.tcti) as tpm:
        tpm.hierarchy_change_auth(tss.ESYS_TR.OWNER, b"owner")
    with pytest.raises(UnavailableError, match="the TPM refuses") as caught:
        TpmWrapping(chip.tcti).make()
    assert "owner password" in caught.value.hint


@pytest.mark.parametrize("parameters", [b"", b"\x94", bytes(100), b"\x94\xce\x01\x80\x00\x00\x90\xc4\x01x\xc4\x01x"])
def test_parameters_that_are_never_written_are_refused(chip: Chip, parameters: bytes) -> None:
    """They come from a file."""
    with pytest.raises(RefusedError):
        TpmWrapping(chip.tcti).open(parameters)


def test_nothing_stays_loaded(tmp_path: Path, chip: Chip) -> None:
    """A chip without a resource manager has three places for keys; more uses than that leave none behind."""
    wrapping = TpmWrapping(chip.tcti, (7,))
    wrapped = wrapping.make()
    for _ in range(5):
        assert wrapping.open(wrapped.parameters) == wrapped.key
