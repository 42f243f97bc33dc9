"""The pages in a browser: what happens, who waits, who holds what; never a value."""
