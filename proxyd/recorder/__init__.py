"""The recording: tape, segments, store, catalog, ledger, replay."""
