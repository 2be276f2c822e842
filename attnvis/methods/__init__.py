"""Saliency methods: a batch of photos in, answers out."""
