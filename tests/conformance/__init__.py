"""Campaigns over many models: what each came to, and the pages of the docs that say so."""
