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
- copy_storage   all objects to another bucket, and the switch to it
- importing      folders and buckets into an owner's files; trees.py reads them
- exporting      the other way round
- parallel       several things at once, and again while a bucket is unavailable
"""
