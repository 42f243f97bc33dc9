"""The choke point: every request passes these steps, in this order, a batch at a time.

open → identify → refuse replays and count limits → decide → resolve → record → reply. There is no other way to a
value, and a step that fails refuses.
"""

from broker_worker.pipeline.desk import Desk

__all__ = ["Desk"]
