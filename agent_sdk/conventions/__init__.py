"""How other programs ask for credentials: git, Docker, AWS's tools, OpenSSH, and SDKs that take a callable."""
