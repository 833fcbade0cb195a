"""File formats that outlive a process."""
