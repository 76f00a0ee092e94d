"""What ``make run`` starts for itself and a deployment does not need: a PostgreSQL and an S3 server as child processes.

``supervisor`` is the command without arguments; ``postgres`` and ``seaweedfs`` start one server each (tests use them
too); ``child`` is what the three share: a process that dies with its parent, a secret kept in a file, a free port.
"""
