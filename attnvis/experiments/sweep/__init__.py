"""A sweep: jobs, their folder, what they found, its page."""
