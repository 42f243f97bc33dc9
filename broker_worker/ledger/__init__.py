"""The run ledger: the audit as a database that can be asked."""
