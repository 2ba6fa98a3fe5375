"""`python -m cloudq_pubsub.emulator`: what `pubsub://local` starts."""

from __future__ import annotations

from cloudq.emulation import main
from cloudq_pubsub.emulator import Server

if __name__ == "__main__":
    main("The Pub/Sub emulator", 8085, Server)
