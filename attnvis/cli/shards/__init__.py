"""`attnvis run PHOTOS launcher=local|slurm|ray`: a run in shards, by processes here or on a cluster."""
