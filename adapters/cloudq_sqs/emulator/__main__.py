"""`python -m cloudq_sqs.emulator`: what `sqs://local` starts."""

from __future__ import annotations

import argparse

from cloudq_sqs.emulator import serve


def main() -> None:
    """Read the port, and listen."""
    parser = argparse.ArgumentParser(description="The SQS emulator on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=9324)
    parser.add_argument("--linger", type=float, help="End so many seconds after the last request.")
    arguments = parser.parse_args()
    serve(arguments.port, linger=arguments.linger)


if __name__ == "__main__":
    main()
