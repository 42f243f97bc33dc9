"""The proxy through which agents use secrets that they never have: a client of the broker, with a process of its own.

An agent calls `http://127.0.0.1:PORT/<route>/…` with its run's identity token in place of a key. The proxy asks the
broker on that run's behalf, puts the value where the operator's file says, and sends the call on over TLS. It holds no
key of the broker, and reads no vault and no audit.
"""
