"""Bytes and rows outside this deployment: backups, restores, moves to another bucket, import and export.

- backup         make a backup
- restore        a backup comes back
- restore_files  single files and folders come back
- prune, verify  delete old ones, check them
- worklist       what a run has to do, on disk
- repository     snapshots and blobs in a folder or a bucket; read it first
- locations      folders and buckets
- age            encryption
- lock           one writer for each repository
"""
