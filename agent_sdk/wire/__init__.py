"""The contract that agents and the broker share: bytes and values in, values out.

Nothing here does I/O, reads a clock or the environment, or imports another part of `agent_sdk`. What the modules
implement is written down in docs/protocol.md, so that an SDK in another language can be made from it and from
the vectors in tests/vectors.
"""
