"""Finds plaintext secrets in files, shell histories and git, and tells where they stand, never what they are."""
