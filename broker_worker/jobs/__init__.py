"""Work that may be late: notifications, and credentials that a vault takes back.

rq carries it, but trusts the queue: it unpickles what it finds there and calls whatever function, callback or URL a job
names. Nothing of that is used here. A job is sealed with a key of the broker's, opened by one function, and names one
of a few registered functions; all else that stands beside it on the queue is ignored (docs/protocol.md, "Jobs").
"""
