"""What handlers use besides their base class."""
