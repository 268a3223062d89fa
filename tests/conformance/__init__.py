"""Other projects' own test suites through proxyd against direct: `python -m tests.conformance.psycopg_suite`, `...mariadb_suite`."""
