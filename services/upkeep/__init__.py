"""Operation: cleaning up, reading stored bytes back, checking the installation, the job queue, demonstration data.

Invariants
    The janitor is idempotent and safe with many at once. Outside the gateway's prefixes it touches nothing in the bucket.
    An object is deleted only if no row refers to it and none can still appear for it.
    Readiness says which part is missing, never why.

Open janitor.py first.
    janitor.py   expired uploads and files, interrupted deletions, old rows, counters
    comparison.py  the bucket against the rows, in both directions
    report.py    what a run of the janitor found
    scrub.py     reads every object back: passes, findings; scrub_reading.py examines, scrub_repair.py repairs
    archive_rules.py  files that the rules move to the archive
    audit.py     the record of who did what
    jobs.py      the job queue: list, retry, remove; failures, and jobs of dead workers
    health.py    readiness
    doctor/      ``python app.py doctor``: what bucket, scanner and sandbox can do
    demo.py      demonstration files by the million
"""
