"""``python -m slimq`` is the command ``slimq``."""

from slimq.cli.main import main

if __name__ == "__main__":
    main()
