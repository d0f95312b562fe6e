"""The web page of a job: a static folder that opens from disk, made from the index alone."""
