"""The sealed cache: values that survive a restart, in one encrypted file of this host (docs/sealed-cache.md).

Nothing here is loaded unless broker.yaml says `sealed: true`.
"""
