"""`python -m steer` is the command `steer`."""

from steer.cli.main import main

if __name__ == "__main__":
    main()
