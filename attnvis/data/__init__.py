"""Files -> photos, batches and what is known of them."""
