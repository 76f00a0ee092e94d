"""Bytes and rows outside this deployment: backups, restores, moves to another bucket, import and export.

- repository    snapshots and blobs in a folder or a bucket; read it first
- locations     folders and buckets
- age           encryption
- restore       a backup comes back
- lock          one writer for each repository
"""
