"""Who may do what, and how often: keys, JWTs, upload tokens, visibility, Idempotency-Keys, concurrency.

Rows: ``api_keys``, ``login_sessions`` and ``upload_tokens`` (digests only), ``idempotency_keys``. Nothing in the bucket.

Invariants:

- A credential is never stored and never logged; it is shown once, when it is made.
- A resource of another owner answers exactly as one that does not exist.
- A key does what its scopes name (api/auth.py), and reaches nothing outside its folder but what is public.
- An upload token can only upload: within its budget, into its folder, with its types, until it or its key ends.
- The budget of a token is charged in the statements of uploads (db/uploads.py, db/files.publish), so that uploads at the same
  time can't exceed it.

Read visibility.py first.

- visibility     which files and lists a principal may see and change
- keys           API keys
- identity_provider, provider_documents    JWTs of the operator's identity provider
- login_sessions sessions of people who sign in with a browser
- code_flow      signing in at the identity provider
- failed_credentials    slows down addresses whose credentials are not valid
- upload_tokens  short-lived credentials for uploads
- idempotency    repeat the first answer to a repeated request
- concurrency    limit expensive work inside requests

Sharing (share links, rights for other owners) belongs here, decided in visibility.py.
"""
