#!/bin/sh
# Starts SeaweedFS with one user, the gateway's, which may do everything with its one bucket and nothing else.
set -eu
umask 077
cat >/tmp/s3.json <<END
{"identities": [{"name": "gateway", "credentials": [{"accessKey": "$S3_ACCESS_KEY", "secretKey": "$S3_SECRET_KEY"}],
  "actions": ["Admin:$S3_BUCKET", "Read:$S3_BUCKET", "Write:$S3_BUCKET", "List:$S3_BUCKET", "Tagging:$S3_BUCKET"]}]}
END
exec weed "$@" -s3.config=/tmp/s3.json
