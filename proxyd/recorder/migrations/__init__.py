"""The catalog's schema, revision by revision; opening the catalog brings a database to the newest."""
