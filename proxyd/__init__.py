"""proxyd: a recording session proxy for privileged access."""

__version__ = "0.1.0.dev0"
