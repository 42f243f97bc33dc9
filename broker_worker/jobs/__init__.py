"""What may be late: notifications, and telling vaults to revoke. Sealed jobs, registered functions."""
