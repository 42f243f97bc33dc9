"""One file a vault. The table that chooses by a reference's scheme is `broker_worker.providers.schemes`."""
