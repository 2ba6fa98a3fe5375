"""`python -m cloudq_sqs.emulator`: what `sqs://local` starts."""

from __future__ import annotations

from cloudq.emulation import main
from cloudq_sqs.emulator import Server

if __name__ == "__main__":
    main("The SQS emulator", 9324, Server)
