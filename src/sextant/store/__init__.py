"""What outlives a restart: the usage ledger, and the accounts (tenants, keys, credentials)."""
