"""Query, keys and values -> weights: what is asked, how scores become logits, how logits become weights."""
