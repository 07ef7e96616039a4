"""``python -m taicang``, and the command ``taicang``."""

import sys


def main() -> None:
    """Run the command; who interrupts it while it is loaded is not shown where that was."""
    try:
        from taicang.app.main import main as command  # noqa: PLC0415
    except KeyboardInterrupt:
        sys.stderr.write("taicang: interrupted\n")
        sys.exit(130)
    command()


if __name__ == "__main__":
    main()
