"""slimq beside other queues, on one machine in one run: see bench/README.md.

`systems` says what is measured, `workloads` how, `session` runs one system for one workload,
`brokers` and `installing` give it what it needs. `summary`, `plot` and `page` make the report.
`programs` has what runs in the peers' own environments: one file a system.
"""
