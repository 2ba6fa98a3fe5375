"""`python -m cloudq_servicebus.emulator`: what `servicebus://local` starts."""

from __future__ import annotations

from cloudq.emulation import main
from cloudq_servicebus.emulator import Server
from cloudq_servicebus.options import PORT, admin_port

if __name__ == "__main__":
    main("The Service Bus emulator", PORT, lambda port: Server(port, admin_port=admin_port(port)))
