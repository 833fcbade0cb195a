"""Load for a served model, and what its answers took: `satrap bench`."""
