"""What handlers import besides their base class."""
