"""Vaults: one module each, chosen by the reference's scheme in one explicit table (`schemes`)."""
