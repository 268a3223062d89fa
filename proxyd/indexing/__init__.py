"""The daemon's side of `proxyd index`: it feeds the processes that decode records, and keeps what they derive."""
