"""What ``make run`` starts itself and a deployment does not need: PostgreSQL and an S3 server as child processes.

Open ``supervisor`` first: it is ``python app.py`` without a command.

    supervisor   starts servers, bootstrap, worker and HTTP server; watches and stops them
    postgres     one PostgreSQL server (tests use it too)
    seaweedfs    one SeaweedFS server (tests use it too)
    child        a process that dies with its parent; secrets in files; free ports
    install      creates .venv from the lock files; standard library only

DATA_DIR holds lock, run.json and secret-key (the supervisor's), postgres/ (cluster/, passwords, port) and seaweedfs/ (data/,
secret key, ports, certificate). Invariants: no child outlives its parent; servers listen on loopback only and require a password
or a signature; secrets have mode 0600; a kill at any moment leaves nothing that the next start can't use.
"""
