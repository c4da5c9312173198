"""`python -m mmo …` is `mmo …`, also where the script is not on the path."""

from mmo.cli import app

if __name__ == "__main__":  # worker processes import this file too
    app()
