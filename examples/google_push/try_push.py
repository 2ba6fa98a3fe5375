"""The service as Cloud Run runs it, on this machine: an emulator of Pub/Sub pushes to it, with tokens that it checks."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types that are not typed themselves.
import asyncio
import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request

from google.protobuf import duration_pb2, field_mask_pb2
from google.pubsub_v1 import SubscriberAsyncClient, types

from cloudq_pubsub.emulator import Server
from cloudq_pubsub.emulator.identity import Identity

PORT, AUDIENCE, ACCOUNT, COUNT = 8767, "https://notes.example/", "push@notes.iam.gserviceaccount.com", 50


async def create() -> None:
    from notify import app

    from cloudq.driver import Provisioner

    async with app.driver(app.url_of("default")) as driver:
        assert isinstance(driver, Provisioner)
        await driver.create(app.addresses("default"))
        # What the Terraform module makes of it.
        push = types.PushConfig(
            push_endpoint=f"http://127.0.0.1:{PORT}/",
            oidc_token=types.PushConfig.OidcToken(service_account_email=ACCOUNT, audience=AUDIENCE),
        )
        wanted = types.Subscription(
            name="projects/notes-project/subscriptions/notes-default",
            push_config=push,
            retry_policy=types.RetryPolicy(minimum_backoff=duration_pb2.Duration(seconds=1)),
        )
        mask = field_mask_pb2.FieldMask(paths=["push_config", "retry_policy"])
        await driver.unwrap(SubscriberAsyncClient).update_subscription(subscription=wanted, update_mask=mask)


def main() -> None:
    shutil.rmtree("notified", ignore_errors=True)  # of an earlier run
    with Identity() as identity:
        server = Server(sign=identity.sign).start()
        os.environ.update(
            CLOUDQ_URL=f"pubsub://notes-project?endpoint=http://{server.endpoint}",
            OUT="notified",
            AUDIENCE=AUDIENCE,
            SERVICE_ACCOUNT=ACCOUNT,
            KEYS_URL=identity.keys_url,
        )
        from notify import OUT, app, notify  # after the URL is known

        asyncio.run(create())
        uvicorn = [sys.executable, "-m", "uvicorn", "main:asgi", "--port", str(PORT), "--log-level", "warning"]
        service = subprocess.Popen(uvicorn)
        try:
            app.enqueue_many(notify.message(f"user{number}") for number in range(1, COUNT))
            deadline = time.time() + 60
            while len(list(OUT.glob("*.txt"))) < COUNT - 1 and time.time() < deadline:
                time.sleep(0.1)
            done = sorted(path.read_text() for path in OUT.glob("*.txt"))
            assert done == sorted(f"hello user{number}\n" for number in range(1, COUNT)), done
            # Whoever has no token runs nothing.
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/", b"{}")
            except urllib.error.HTTPError as error:
                assert error.code == 401, error.code
            print(f"{len(done)} users notified; a request without a token was refused")
        finally:
            service.terminate()
            service.wait(20)
            app.close()
            server.stop()


if __name__ == "__main__":
    main()
