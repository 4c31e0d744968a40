"""Bytes: the blob store, snapshots of folders, ignore rules, datastores."""
