"""What Cloud Run serves: `uvicorn main:asgi`. For functions-framework, `push`."""

import os

from notify import app

from cloudq_pubsub import push_app, push_function
from cloudq_pubsub.tokens import GOOGLE_KEYS

#: Of the subscription's push: `terraform output push`. KEYS_URL is for the emulator alone.
AUDIENCE, ACCOUNT, KEYS = os.environ["AUDIENCE"], os.environ["SERVICE_ACCOUNT"], os.environ.get("KEYS_URL", GOOGLE_KEYS)

asgi = push_app(app, audience=AUDIENCE, service_account=ACCOUNT, keys_url=KEYS)
push = push_function(app, audience=AUDIENCE, service_account=ACCOUNT, keys_url=KEYS)
