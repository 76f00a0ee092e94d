"""The worker: the second way into the services, for work done after the answer (``python app.py worker``).

Jobs are rows in PostgreSQL (procrastinate), enqueued by services in the transaction that makes them due (db/jobs.py).
Each queue has its own slots, so checks never wait behind previews.

Invariants
    Every job may run twice, or be interrupted anywhere: what it changes, it changes by compare-and-set.
    An unavailable bucket or database is retried with growing delays; other failures end after four attempts.
    A worker that shows no sign of life loses its jobs to the others.

Open tasks.py first.
    tasks.py    task name -> service call, retry rule, cron jobs
    worker.py   the process: queues, sweeps, shutdown
"""
