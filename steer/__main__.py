"""The command `steer`, also as `python -m steer`."""

import sys


def main() -> None:
    """Entry point of the console script."""
    try:
        # Here, so that Ctrl-C is heard while all of this loads.
        from steer.base.processes import hearing_interrupts, restart_in_utf8

        with hearing_interrupts():
            restart_in_utf8()
            from steer.cli.main import main as run

        run()
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
