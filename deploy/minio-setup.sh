#!/bin/sh
# Makes the gateway's user in MinIO, with what it needs on its one bucket and nothing else, and sets what MinIO keeps in its
# configuration instead of in the bucket's rules. MinIO accepts headers that were not signed, so the user may copy objects by signed
# headers only: else whoever has a presigned URL could copy any object there whose key he knows. Idempotent. Needs MC_HOST_root, the address with root's name and password.
set -ef

origin=${PUBLIC_URL#*://}
origin=${PUBLIC_URL%%://*}://${origin%%/*}
IFS=', '
set -- $CORS_ORIGINS "$origin"
IFS=,
# MinIO aborts unfinished multipart uploads; its default of 24 h would end uploads that are still active.
mc admin config set root api cors_allow_origin="$*" stale_uploads_expiry=720h

mc mb --ignore-existing "root/$S3_BUCKET"
mc admin policy create root gateway /dev/stdin <<END
{"Version": "2012-10-17", "Statement": [
  {"Effect": "Allow", "Resource": "arn:aws:s3:::$S3_BUCKET", "Action": [
    "s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions", "s3:GetBucketVersioning",
    "s3:GetBucketObjectLockConfiguration"]},
  {"Effect": "Allow", "Resource": "arn:aws:s3:::$S3_BUCKET/*", "Action": [
    "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:GetObjectVersion", "s3:DeleteObjectVersion", "s3:GetObjectRetention",
    "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]},
  {"Effect": "Deny", "Resource": "arn:aws:s3:::$S3_BUCKET/*", "Action": "s3:PutObject", "Condition": {
    "StringEquals": {"s3:authType": "REST-QUERY-STRING"}, "Null": {"s3:x-amz-copy-source": "false"}}},
  {"Effect": "Deny", "Action": "admin:CreateServiceAccount"}
]}
END
printf '%s\n' "$S3_ACCESS_KEY" "$S3_SECRET_KEY" | mc admin user add root
mc admin policy attach root gateway --user "$S3_ACCESS_KEY"
