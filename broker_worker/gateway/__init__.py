"""The HTTP gateway: programs in any language ask for secrets, and the broker decides as for any run.

It is a client on the queue with a run of its own, and believes nobody: what a program shows it passes on to the broker,
which verifies it. It has no key of the broker's, no vault, no policy and no audit.
"""
