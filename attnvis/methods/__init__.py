"""Saliency methods: features in, answers out."""
