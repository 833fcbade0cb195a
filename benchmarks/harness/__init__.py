"""What the benchmarks have in common: the workload, child processes, clients, and the report."""
