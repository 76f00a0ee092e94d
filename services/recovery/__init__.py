"""Bytes and rows outside this deployment: backups, restores, moves to another bucket, import and export."""
