"""The broker's side: verifies, decides, limits, fetches, records and answers; the only one who knows the vault."""
