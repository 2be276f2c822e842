"""Many photos through one method, into a run's folder."""
