"""The function app on this machine: loaded by Azure's own library, called for what is in the queues of an emulator.

The Functions host is not here; a stand-in does with each message what its docs say of the trigger.
"""

import asyncio
import os
import shutil

from cloudq_servicebus.emulator import Server
from cloudq_servicebus.emulator.functions import Host

COUNT = 50


async def main() -> None:
    shutil.rmtree("archived", ignore_errors=True)  # of an earlier run
    server = Server().start()
    os.environ["CLOUDQ_URL"] = f"servicebus://?endpoint=127.0.0.1:{server.port}&admin=127.0.0.1:{server.admin_port}"
    os.environ["OUT"] = "archived"
    from archive import OUT, archive  # after the URL is known
    from archive import app as tasks
    from function_app import app

    from cloudq.driver import Part, Provisioner

    async with tasks.driver(tasks.url_of("default")) as driver:
        assert isinstance(driver, Provisioner)
        await driver.create(tasks.addresses("default"))
        await tasks.aenqueue_many(archive.message(document) for document in (*range(1, COUNT), -1))
        async with Host(app, server.port) as host:
            async with asyncio.timeout(60):
                while len(list(OUT.glob("*.txt"))) < COUNT - 1:
                    await host.round()
        done = sorted(path.read_text() for path in OUT.glob("*.txt"))
        assert done == sorted(f"document {document}\n" for document in range(1, COUNT)), done
        dead = await driver.receive(tasks.address("default", Part.DEAD), 10, 5.0)
        assert ["there is no document -1" in each.attributes["cloudq-dead"] for each in dead] == [True]
        print(f"{len(done)} archived and 1 dead letter, in {host.calls} calls; to the runtime, {host.failed} of them failed")
    tasks.close()
    server.stop()


if __name__ == "__main__":
    asyncio.run(main())
