"""`/v1/files` and `/v1/batches`: OpenAI's interface to jobs, kept in a folder and run behind live requests."""
