"""Protocols for everything outside: what the pipeline and the worker need, and who provides it.

Adapters are made in `broker_worker.app` only. Each port has a fault test: what happens when it fails is part of
the contract written here.
"""

from broker_worker.ports.clock import Clock
from broker_worker.ports.logs import AuditSink, LeaseLog, OnceLog, RevocationLog, WriteLog, WriteNote
from broker_worker.ports.queue import Admission, AdmissionAsk, Answer, Entry, JobQueue, Limit, OpenAsk, Verdict
from broker_worker.ports.vaults import (
    Cache,
    CachedValue,
    CredentialedProvider,
    DynamicProvider,
    Fetched,
    Health,
    MeteredProvider,
    PartedProvider,
    Provider,
    Scope,
    ScopeReporter,
    VaultStates,
)

__all__ = [
    "Admission",
    "AdmissionAsk",
    "Answer",
    "AuditSink",
    "Cache",
    "CachedValue",
    "Clock",
    "CredentialedProvider",
    "DynamicProvider",
    "Entry",
    "Fetched",
    "Health",
    "JobQueue",
    "LeaseLog",
    "Limit",
    "MeteredProvider",
    "OnceLog",
    "OpenAsk",
    "PartedProvider",
    "Provider",
    "RevocationLog",
    "Scope",
    "ScopeReporter",
    "VaultStates",
    "Verdict",
    "WriteLog",
    "WriteNote",
]
