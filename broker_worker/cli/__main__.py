"""`python -m broker_worker.cli`: the same as `secret-broker`, for places where scripts are not on the PATH."""

from broker_worker.cli import main

main(prog_name="secret-broker")
