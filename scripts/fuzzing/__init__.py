"""What `scripts/fuzz.py` damages and reads, a file for each kind of thing; and who judges what came of it."""
