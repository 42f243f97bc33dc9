"""HashiCorp Vault and OpenBao as a provider, through hvac: `vault://mount/path[?version=N]#field`.

`place` reads references, `section` the operator's options, `client` is the only module that touches hvac, `failures`
the only one that looks at what Vault says when it refuses. `session` logs in, `engines` reads and writes.
"""
