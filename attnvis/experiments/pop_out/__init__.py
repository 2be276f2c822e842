"""By how much an odd item must differ from the others for a map to find it."""
