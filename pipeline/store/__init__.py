"""What a job leaves: Parquet tables, pictures and its receipt, written aside and renamed."""
