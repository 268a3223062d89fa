"""Measures what the README promises, against OpenSSH's own ways, with real peers on this machine.

`python -m bench` runs everything; `python -m bench throughput latency --quick --json` some of it, short, for programs.
Every script is a module here with `measure(rig) -> Report`; its docstring holds its promise.
"""
