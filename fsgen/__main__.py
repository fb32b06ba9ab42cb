"""``python -m fsgen``: the command line."""

from fsgen.cli.app import main

if __name__ == "__main__":
    main()
