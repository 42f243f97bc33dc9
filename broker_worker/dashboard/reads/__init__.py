"""What the pages read of the run ledger: each function one page's part, every query led by an index."""
