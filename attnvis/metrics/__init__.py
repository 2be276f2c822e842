"""A map, or numbers over photos -> numbers: how sharp an attention is, how sure a mean."""
