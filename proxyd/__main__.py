"""`python -m proxyd`: the same as the command `proxyd`."""

from proxyd.cli import proxyd

if __name__ == "__main__":
    proxyd(prog_name="proxyd")
