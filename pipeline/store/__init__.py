"""The files of a job: Parquet tables, atomic writes, locks, and remote file systems."""
