"""Methods and settings against what is known of photos: one table with intervals."""
