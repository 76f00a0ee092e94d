"""Operation: cleaning up, checking the installation, the job queue, demonstration data.

Invariants
    The janitor is idempotent and safe with many at once. Outside the gateway's prefixes it touches nothing in the bucket.
    An object is deleted only if no row refers to it and none can still appear for it.
    Readiness says which part is missing, never why.

Backup, archiving and integrity checks belong here when they come.

Open janitor.py first.
    janitor.py   expired uploads, orphaned objects, deferred deletions, old rows, counters
    jobs.py      the job queue: list, retry, remove; failures, and jobs of dead workers
    health.py    readiness
    doctor/      ``python app.py doctor``: what bucket, scanner and sandbox can do
    demo.py      demonstration files by the million
"""
