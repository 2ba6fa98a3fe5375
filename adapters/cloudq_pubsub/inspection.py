"""How the topics and subscriptions that there are differ from those that are declared, for `cloudq doctor`. Only reads.

Beside the settings themselves it looks for what loses work on Pub/Sub without a word: a subscription that expires, a filter, a
dead-letter policy without its grants, a retry policy that is added to a worker's own holds.
"""

from __future__ import annotations

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# The SDK names types of protobuf and google.api_core that are not typed themselves.
import re
from collections.abc import Sequence
from typing import Any

from google.api_core import exceptions as api
from google.auth import exceptions as auth
from google.pubsub_v1 import PublisherAsyncClient, SubscriberAsyncClient, types

from cloudq.driver import Check, Declared, Part
from cloudq_pubsub.errors import translate
from cloudq_pubsub.options import Options
from cloudq_pubsub.provision import WEEK, subscription

#: Of one call, which is made once: the SDK's own retries go on for a minute.
_PATIENCE = 10.0
#: docs, dead-letter topics: who moves what was delivered too often.
_AGENT = re.compile(r"serviceAccount:service-\d+@gcp-sa-pubsub\.iam\.gserviceaccount\.com")
_GONE = "_deleted-topic_"


async def inspect(
    publisher: PublisherAsyncClient,
    subscriber: SubscriberAsyncClient,
    options: Options,
    project: str,
    queues: Sequence[Declared],
) -> list[Check]:
    """Compare each topic with its subscription."""
    checks: list[Check] = []
    parts = [declared.queue for declared in queues if declared.queue.part is Part.DEAD]
    dead = {queue.logical: f"projects/{project}/topics/{options.name(queue)}" for queue in parts}
    for declared in queues:
        name = options.name(declared.queue)
        wanted = subscription(declared.queue, options, project, dead.get(declared.queue.logical))
        try:
            checks += await _One(publisher, subscriber, options, declared, wanted).checks()
        except api.NotFound:
            checks.append(
                Check.compare(
                    name,
                    "topic and subscription exist",
                    declared=True,
                    live=False,
                    why="tasks cannot be sent, or what is sent is kept by nobody",
                    mend="terraform apply, or for development: cloudq queues create",
                )
            )
        except (api.GoogleAPICallError, auth.GoogleAuthError) as error:
            told = translate(error, "GetSubscription", f"{name} in {project}")
            checks.append(Check.untold(name, "all settings", "readable", str(told)))
    return checks


class _One:
    """One topic with its subscription."""

    def __init__(
        self,
        publisher: PublisherAsyncClient,
        subscriber: SubscriberAsyncClient,
        options: Options,
        declared: Declared,
        wanted: types.Subscription,
    ) -> None:
        self.publisher, self.subscriber, self.options, self.declared = publisher, subscriber, options, declared
        self.queue, self.name = declared.queue, options.name(declared.queue)
        self.wanted = wanted
        self.labels: dict[str, str] = {}

    async def checks(self) -> list[Check]:
        """Read both, and compare."""
        topic = await self.publisher.get_topic(topic=self.wanted.topic, retry=None, timeout=_PATIENCE)
        live = await self.subscriber.get_subscription(subscription=self.wanted.name, retry=None, timeout=_PATIENCE)
        self.labels = dict(live.labels)
        # What `create` makes, for development, is always pulled.
        made = "cloudq-config" in self.labels or not self.options.plain
        pushed = self.declared.served and self.queue.part is Part.MAIN and made
        wanted, found = self.wanted, [self._topic(live)]
        found += [
            self._say(
                "ack_deadline_seconds",
                wanted.ack_deadline_seconds,
                live.ack_deadline_seconds,
                "a task comes again while it runs, or too late after a crash",
                f"--ack-deadline={wanted.ack_deadline_seconds}",
            ),
            self._kept(live),
            self._say(
                "enable_message_ordering",
                wanted.enable_message_ordering,
                live.enable_message_ordering,
                "tasks with an ordering key overtake each other",
                "",
            ),
            self._say(
                "enable_exactly_once_delivery",
                wanted.enable_exactly_once_delivery and not pushed,
                live.enable_exactly_once_delivery,
                "the driver takes answers for something that they are not",
                f"--{'' if wanted.enable_exactly_once_delivery else 'no-'}enable-exactly-once-delivery",
            ),
            self._say(
                "expiration_policy.ttl",
                "never",
                _span(live.expiration_policy.ttl) if "ttl" in live.expiration_policy else "never",
                "a subscription that nobody uses for so long is deleted, with what waits in it",
                "--expiration-period=never",
            ),
            self._say(
                "filter", "none", live.filter or "none", "what does not match is dropped, and counts as acknowledged", ""
            ),
            self._say(
                "push_config",
                "pushed" if pushed else "pulled",
                _delivery(live.push_config),
                "workers get nothing" if not pushed else "no function is called",
                "terraform apply" if pushed else "--push-endpoint=",
            ),
            self._say(
                "retry_policy",
                "set" if pushed else "none",
                "set" if "retry_policy" in live else "none",
                "a failed push comes back at once, without end" if pushed else "its backoff is added to what a worker holds",
                "--min-retry-delay=15s --max-retry-delay=600s" if pushed else "--clear-retry-policy",
            ),
        ]
        found += await self._net(live)
        if self.options.kms:
            why = "what waits is not encrypted with your own key"
            mend = "make the topic anew: this cannot be changed"
            found.append(Check.compare(self.name, "kms_key_name", self.options.kms, topic.kms_key_name, why=why, mend=mend))
        if self.declared.tag and "cloudq-config" in self.labels:
            why = "cloudq.toml was changed after the last apply, or the apply was of another one"
            mend = "cloudq infra export, then terraform apply"
            live_tag = self.labels["cloudq-config"]
            found.append(Check.compare(self.name, "label cloudq-config", self.declared.tag, live_tag, why=why, mend=mend))
        return found

    def _topic(self, live: Any) -> Check:
        why = "its topic was deleted: nothing arrives any more" if live.topic == _GONE else "it is fed by another topic"
        return self._say("topic", self.wanted.topic, live.topic, why, "")

    def _kept(self, live: Any) -> Check:
        wanted, found = self.wanted.message_retention_duration, live.message_retention_duration
        if self.options.plain and found == WEEK:
            wanted = min(wanted, found)  # Google's emulator takes no more
        return self._say(
            "message_retention_duration",
            _span(wanted),
            _span(found),
            "a task is deleted at the end of it, whether it was run or not",
            f"--message-retention-duration={_span(wanted)}",
        )

    async def _net(self, live: Any) -> list[Check]:
        """Compare the net, and the grants without which it does not hold."""
        wanted = self.wanted.dead_letter_policy
        why = "Pub/Sub moves tasks in the middle of their retries, or counts no deliveries at all"
        if self.queue.part is not Part.MAIN:
            why = "each look at a message counts, and Pub/Sub would move what only waits"
        dead = wanted.dead_letter_topic.rpartition("/")[2]
        mend = f"--dead-letter-topic={dead} --max-delivery-attempts={wanted.max_delivery_attempts}"
        found = [
            self._say(
                f"dead_letter_policy.{field}",
                getattr(wanted, field) or "none",
                getattr(live.dead_letter_policy, field) or "none",
                why,
                mend if dead else "--clear-dead-letter-policy",
            )
            for field in ("dead_letter_topic", "max_delivery_attempts")
        ]
        if self.queue.part is Part.MAIN:
            found += [
                await self._granted(self.publisher, live.dead_letter_policy.dead_letter_topic, "roles/pubsub.publisher"),
                await self._granted(self.subscriber, self.wanted.name, "roles/pubsub.subscriber"),
            ]
        return found

    async def _granted(self, client: Any, resource: str, role: str) -> Check:
        """Look for Pub/Sub's own account. A grant on the whole project is not seen from here."""
        setting = f"Pub/Sub itself has {role} on {resource.rpartition('/')[2] or 'its dead part'}"
        if not resource:
            return Check.compare(
                self.name, setting, declared=True, live=False, why="there is no dead part", mend="terraform apply"
            )
        try:
            policy = await client.get_iam_policy(request={"resource": resource}, retry=None, timeout=_PATIENCE)
        except api.NotFound:
            why, mend = "what was delivered too often has nowhere to go", "terraform apply"
            return Check.compare(self.name, setting, declared=True, live=False, why=why, mend=mend)
        except (api.GoogleAPICallError, auth.GoogleAuthError) as error:
            if self.options.plain and isinstance(error, api.MethodNotImplemented):  # an emulator that knows no grants at all
                return Check.compare(self.name, setting, declared=True, live=True, why="", mend="")
            return Check.untold(self.name, setting, "True", str(translate(error, "GetIamPolicy", resource)))
        granted = any(binding.role == role and any(_AGENT.fullmatch(m) for m in binding.members) for binding in policy.bindings)
        if self.options.plain and "cloudq-config" not in self.labels:
            granted = True  # made for development on an emulator, which asks nobody
        kind = "topics" if "/topics/" in resource else "subscriptions"
        return Check.compare(
            self.name,
            setting,
            declared=True,
            live=granted,
            why="what was delivered too often is not moved, and comes back for ever",
            mend=f"gcloud pubsub {kind} add-iam-policy-binding {resource.rpartition('/')[2]} --role={role} "
            "--member=serviceAccount:service-<project number>@gcp-sa-pubsub.iam.gserviceaccount.com",
        )

    def _say(self, setting: str, declared: object, live: object, why: str, flag: str) -> Check:
        if "cloudq-config" in self.labels or flag == "terraform apply":
            mend = "terraform apply"
        elif flag:
            mend = f"gcloud pubsub subscriptions update {self.name} {flag}"
        else:
            mend = "make a new subscription: this cannot be changed"
        return Check.compare(self.name, setting, declared, live, why=why, mend=mend)


def _delivery(push: Any) -> str:
    if not push.push_endpoint:
        return "pulled"
    return "pushed" if push.oidc_token.service_account_email else "pushed without a token"


def _span(duration: Any) -> str:
    return f"{int(duration.total_seconds())}s"
