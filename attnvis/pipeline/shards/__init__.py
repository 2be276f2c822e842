"""A run over millions of photos, shard by shard: a plan, parts that are whole or not there, one merge."""
