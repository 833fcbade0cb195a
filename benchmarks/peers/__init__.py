"""What satrap is measured against."""
