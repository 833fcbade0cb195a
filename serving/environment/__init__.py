"""Virtual environments for archives with a requirements file: built once, shared, beside the server's packages."""
