"""A FastAPI application that enqueues without holding up its loop.

`aenqueue` returns when the provider has confirmed. The connection is opened at the first, and closed with the application.
"""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException
from pydantic import BaseModel
from signup import app as tasks
from signup import welcome

from cloudq import EnqueueError


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    yield
    tasks.close()


api = FastAPI(lifespan=lifespan)


class Signup(BaseModel):
    email: str
    name: str


@api.post("/signups", status_code=202)
async def sign_up(signup: Signup) -> dict[str, str]:
    try:
        receipt = await welcome.aenqueue(signup.email, signup.name)
    except EnqueueError as error:
        # What the user did not get a receipt for is not promised to him.
        raise HTTPException(503, "try again in a moment") from error
    return {"task": receipt.task_id}
