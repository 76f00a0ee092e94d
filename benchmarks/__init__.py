"""Measurements of the gateway beside the same work without it. Open ``scenarios`` first: it lists what is measured.

run          the command: rounds, two checkouts alternately, growth
scenarios    what the clients do, for each target
load         wrk, and a raw-socket client
harness      starts the servers; their processor time and memory
report       results.json and BENCHMARKS.md;  plots  their pictures
flask_app    what one would write without the gateway;  tus_server/  the reference of tus
"""
