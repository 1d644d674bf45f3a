"""AuthPI's own Python SDK drives a service that claims to speak as AuthPI does, through every webhook, delivery, event and
`/v1/me` call that it has. Each answer is also held against `openapi/authpi.yaml`.

Against a running service:

    python tests/interop/agree.py --base-url … --account-id … --key-id … --key-secret … --access-token …

(each may come from the environment instead: AUTHPI_BASE_URL, AUTHPI_ACCOUNT_ID, AUTHPI_KEY_ID, AUTHPI_KEY_SECRET,
AUTHPI_ACCESS_TOKEN), or starting one that prints the same as one line of JSON:

    python tests/interop/agree.py -- target/debug/authpi emulate --json --listen 127.0.0.1:0 --retry-delays 50ms,50ms

Events are made to happen by `POST {base_url}/_emulator/events`. The retries of the service must be over within seconds, so that
deliveries can be seen to fail for good. Prints a line per check, and ends with 1 at the first disagreement.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import binascii
import hashlib
import hmac
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from dataclasses import dataclass
from typing import Any, AsyncIterator, Awaitable, Callable

import httpx
from authpi_admin import (
    ApiError,
    AuthenticationError,
    AuthPIAdmin,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    PreconditionFailedError,
    ValidationError,
)
from authpi_admin.generated.resources.deliveries import DeliveriesResource
from authpi_admin.generated.resources.events import EventsResource
from authpi_admin.generated.resources.redeliver import RedeliverResource
from authpi_admin.generated.resources.webhooks import WebhooksResource
from authpi_admin.generated.scopes.webhook_scope import WebhookScope
from authpi_admin.types import CallerIdentity, WebhookEventType

from description import Description
from receiver import Delivery, Receiver

PATIENCE = 20.0  # seconds that anything awaited may take
PARTS = [WebhooksResource, DeliveriesResource, RedeliverResource, EventsResource, WebhookScope]


class Disagreement(Exception):
    """The service did something that AuthPI's SDK, its pages or the description do not say."""


@dataclass(frozen=True)
class Service:
    base_url: str
    account_id: str
    key_id: str
    key_secret: str
    access_token: str


class Agreement:
    """What the checks share: the service, the receiver, and every exchange so far."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.receiver = Receiver()
        self.description = Description()
        self.operations: set[str] = set()
        self.calls: set[str] = set()
        self.last: httpx.Response | None = None
        self.checks = 0
        self.raw = httpx.AsyncClient(
            base_url=service.base_url, auth=(service.key_id, service.key_secret), timeout=PATIENCE, event_hooks={"response": [self._seen]}
        )
        for part in PARTS:
            self._count_calls(part)

    def admin(self, **options: Any) -> AuthPIAdmin:
        """AuthPI's SDK for the service; its answers are held against the description."""
        if "access_token" not in options:
            options.setdefault("api_key", (self.service.key_id, self.service.key_secret))
        options.setdefault("account_id", self.service.account_id)
        http = httpx.AsyncClient(timeout=PATIENCE, event_hooks={"response": [self._seen]})
        return AuthPIAdmin(base_url=self.service.base_url, http_client=http, retries=False, **options)

    def check(self, sentence: str, holds: Any, seen: Any = "") -> None:
        if not holds:
            raise Disagreement(f"{sentence}\n      seen: {seen!r}")
        self.checks += 1
        print(f"ok    {sentence}", flush=True)

    async def refused(self, sentence: str, kind: type[ApiError], statuses: tuple[int, ...], call: Awaitable[Any]) -> Any:
        """The call fails as `kind` with one of `statuses`, and with AuthPI's error envelope."""
        try:
            answer = await call
        except kind as error:
            self.check(sentence, error.status_code in statuses, error.status_code)
            if error.error == "unknown" or error.raw_body is not None or not error.error_description:
                raise Disagreement(f"{sentence}: without AuthPI's error envelope\n      seen: {error.raw_body!r}") from error
            return error
        except ApiError as error:
            raise Disagreement(f"{sentence}: another error\n      seen: {error.status_code} {error.error}: {error}") from error
        raise Disagreement(f"{sentence}: it succeeded\n      seen: {answer!r}")

    async def until(self, sentence: str, look: Callable[[], Awaitable[Any]], enough: Callable[[Any], bool]) -> Any:
        """Looks until it is enough, or the time is up."""
        deadline = time.monotonic() + PATIENCE
        while True:
            seen = await look()
            if enough(seen) or time.monotonic() > deadline:
                self.check(sentence, enough(seen), seen)
                return seen
            await asyncio.sleep(0.02)

    async def trigger(self, event_type: str, *, times: int = 1, subject: Any = None, data: Any = None) -> None:
        body = {"type": event_type, "subject": subject, "data": data}
        for _ in range(times):
            answer = await self.raw.post("/_emulator/events", json={k: v for k, v in body.items() if v is not None})
            if not answer.is_success:
                raise Disagreement(f"an event {event_type} can be made to happen\n      seen: {answer.status_code} {answer.text}")

    async def close(self) -> None:
        self.receiver.close()
        await self.raw.aclose()

    async def _seen(self, answer: httpx.Response) -> None:
        await answer.aread()
        self.last = answer
        request = answer.request
        found = self.description.operation_of(request.method, request.url.path)
        if found is not None and answer.is_success:
            self.operations.add(found[1])
        mistakes = self.description.answer_mistakes(
            request.method, request.url.path, answer.status_code, answer.headers, answer.content
        )
        if mistakes:
            raise Disagreement("an answer is not as described\n      " + "\n      ".join([*mistakes, answer.text[:2000]]))

    def _count_calls(self, part: type) -> None:
        for name, call in list(vars(part).items()):
            if name.startswith("_") or not callable(call):
                continue

            def counted(*args: Any, _call: Any = call, _name: str = f"{part.__name__}.{name}", **kwargs: Any) -> Any:
                self.calls.add(_name)
                return _call(*args, **kwargs)

            setattr(part, name, counted)


async def collect(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


def signature_of(auth: Any) -> str | None:
    return getattr(auth, "signature_secret_plain", None)


def bearer_of(auth: Any) -> str | None:
    return getattr(auth, "bearer_token_plain", None)


def signed(delivery: Delivery, secret: str) -> bool:
    """Whether the delivery is signed as we assume: HMAC-SHA256 over the raw body, keyed by the whole secret, hex or base64."""
    value = delivery.headers.get("x-webhook-signature", "")
    for prefix in ("sha256=", "v1="):
        value = value.removeprefix(prefix)
    digest = hmac.digest(secret.encode(), delivery.body, hashlib.sha256)
    try:
        return value == digest.hex() or base64.b64decode(value, validate=True) == digest
    except binascii.Error:
        return False


# The checks, in order. Each begins with what it needs and leaves the service as it likes.


async def caller(a: Agreement) -> None:
    """GET /v1/me"""
    async with a.admin() as admin:
        me = CallerIdentity(**await admin.whoami())
        a.check("an API key is told that it is one, and which", (me.type, me.key_id) == ("api_key", a.service.key_id), me)
        a.check("an API key acts on exactly one account", [x.account_id for x in me.accounts] == [a.service.account_id], me)
    async with a.admin(account_id=None) as admin:
        await admin.webhooks.list()
        a.check("the SDK finds the account of an API key by itself", f"/{a.service.account_id}/" in str(a.last and a.last.url), a.last)
    async with a.admin(access_token=a.service.access_token) as admin:
        me = CallerIdentity(**await admin.whoami())
        a.check("an access token is told that it is a user's", me.type in ("user", "personal_token") and me.user_id, me)
        a.check("an access token acts on the account", a.service.account_id in [x.account_id for x in me.accounts], me)
        await admin.webhooks.list()
        await admin.events.list()
        a.check("an access token can list webhooks and events", True)


async def credentials(a: Agreement) -> None:
    """401 and 403"""
    for sentence, options in [
        ("a wrong secret is 401", {"api_key": (a.service.key_id, "wrong")}),
        ("an unknown key is 401", {"api_key": ("key_unknown", a.service.key_secret)}),
        ("a wrong access token is 401", {"access_token": "wrong"}),
        ("an API key's secret is no access token", {"access_token": a.service.key_secret}),
    ]:
        async with a.admin(**options) as admin:
            await a.refused(sentence, AuthenticationError, (401,), admin.webhooks.list())
            error = await a.refused(sentence + " for /v1/me too", AuthenticationError, (401,), admin.whoami())
            a.check("401 is not to be tried again", error.retryable is False, error.retryable)
    asked = []

    async def fresh() -> dict[str, str]:
        asked.append(1)
        return {"access_token": a.service.access_token}

    async with a.admin(access_token="stale", on_token_expired=fresh) as admin:
        await admin.webhooks.list()
        await admin.events.list()
        a.check("after 401 the SDK asks for a fresh token once, and it is taken", len(asked) == 1, asked)
    async with a.admin(account_id="acc_of_someone_else") as admin:
        await a.refused("another's account is 403 or 404", (ForbiddenError, NotFoundError), (403, 404), admin.webhooks.list())  # type: ignore[arg-type]
        await a.refused("another's events are 403 or 404", (ForbiddenError, NotFoundError), (403, 404), admin.events.list())  # type: ignore[arg-type]


async def creation(a: Agreement) -> None:
    """create and get"""
    url = a.receiver.url("/creation")
    async with a.admin() as admin:
        began = time.time() * 1000
        made = await admin.webhooks.create(
            {"name": "Lifecycle", "url": url, "auth": {"type": "signature"}, "events": [WebhookEventType.USER_CREATED, "user.deleted"]}
        )
        a.check("create answers 201", a.last is not None and a.last.status_code == 201, a.last)
        a.check("a new webhook is what was asked for", (made.name, made.url, made.events) == ("Lifecycle", url, ["user.created", "user.deleted"]), made)
        a.check("a new webhook belongs to the account and is active", (made.account_id, made.status) == (a.service.account_id, "active"), made)
        a.check("times are in Unix milliseconds", abs(made.created_at - began) < 600_000, made.created_at)
        a.check("`signature` gives a secret, and no token", signature_of(made.auth) and not bearer_of(made.auth), made.auth)
        got = await admin.webhooks.get(made.id)
        a.check("get returns what create returned, without secrets", strip(got) == strip(made) and "plain" not in got.auth.model_dump_json(), got)
        etag = f'"{got.updated_at or got.created_at}"'
        a.check("the ETag is the quoted time of the last change", (got._etag, made._etag) == (etag, etag), (got._etag, made._etag))
        a.check("a webhook's own scope gets the same", strip(await admin.webhook(made.id).get()) == strip(got))
        a.check("the hint shows the end of the secret", got.auth.signature_secret_hint.endswith(signature_of(made.auth)[-4:]), got.auth)  # type: ignore[attr-defined,index]

        for kind, has_signature, has_bearer in [("none", 0, 0), ("bearer", 0, 1), ("signature", 1, 0), ("bearer+signature", 1, 1)]:
            one = await admin.webhooks.create({"name": kind, "url": url, "auth": {"type": kind}, "events": ["email.sent"]})
            secrets = (bool(signature_of(one.auth)), bool(bearer_of(one.auth)))
            a.check(f"`{kind}` gives the secrets of its kind", secrets == (bool(has_signature), bool(has_bearer)), one.auth)
            a.check(f"`{kind}` is read back", one.auth.type == kind, one.auth)  # type: ignore[attr-defined]
            await admin.webhooks.delete(one.id)

        every = await admin.webhooks.create({"name": "every", "url": url, "auth": {"type": "none"}, "events": list(WebhookEventType)})
        a.check("every event type can be asked for", every.events == [str(t) for t in WebhookEventType], every.events)
        full = {
            "name": "full", "url": url, "auth": {"type": "signature", "signature_algorithm": "hmac-sha256"}, "events": ["user.created"],
            "description": "all members", "status": "disabled", "subjects": [{"issuer_id": "i_1"}], "retry": {"limit": 3},
            "circuit_breaker": {"threshold": 5}, "metadata": {"team": "crm"},
        }  # fmt: skip
        one = await admin.webhooks.create(full)  # type: ignore[arg-type]
        sent = {k: v for k, v in full.items() if k != "auth"}
        a.check("every member of a create call is kept", one.model_dump(include=set(sent)) == sent, one)
        for each in (every, one, made):
            await admin.webhooks.delete(each.id)
    async with a.admin(access_token=a.service.access_token) as admin:
        one = await admin.webhooks.create({"name": "guide", "url": url})  # type: ignore[typeddict-item]
        a.check("the guide's older call, a token and only `name` and `url`, is good", one.auth.type == "none", one.auth)  # type: ignore[attr-defined]
        await admin.webhooks.delete(one.id)


def strip(webhook: Any) -> dict[str, Any]:
    """A webhook without its secrets."""
    members = webhook.model_dump()
    members["auth"] = {k: v for k, v in members["auth"].items() if not k.endswith("_plain")}
    return members


async def mistakes(a: Agreement) -> None:
    """400, 404, 415 and 422"""
    good = {"name": "n", "url": a.receiver.url("/mistakes"), "auth": {"type": "signature"}, "events": ["user.created"]}
    async with a.admin() as admin:
        for what, field, change in [
            ("a missing name", "name", {"name": ...}),
            ("an empty name", "name", {"name": ""}),
            ("a name that is no text", "name", {"name": 7}),
            ("a missing URL", "url", {"url": ...}),
            ("an unusable URL", "url", {"url": "example.com"}),
            ("a URL that is not HTTP", "url", {"url": "ftp://example.com/"}),
            ("an unknown kind of authentication", "auth", {"auth": {"type": "basic"}}),
            ("authentication without a kind", "auth", {"auth": {}}),
            ("an unknown event type", "events", {"events": ["user.created", "user.invented"]}),
            ("a wildcard", "events", {"events": ["user.*"]}),
            ("an unknown status", "status", {"status": "failing"}),
        ]:
            body = {k: v for k, v in {**good, **change}.items() if v is not ...}
            error = await a.refused(f"{what} is refused", ValidationError, (400, 422), admin.webhooks.create(body))  # type: ignore[arg-type]
            a.check(f"{what} is named among the fields", any(f["field"].startswith(field) for f in error.fields), error.fields)
        for limit in (0, 101, -1):
            await a.refused(f"a limit of {limit} is refused", ValidationError, (400, 422), admin.webhooks.list(limit=limit))
            await a.refused(f"a limit of {limit} events is refused", ValidationError, (400, 422), admin.events.list(limit=limit))
        await a.refused("an unknown status is refused as a filter", ValidationError, (400, 422), admin.webhooks.list(status="lost"))
        await a.refused("a body that is no object is refused", ValidationError, (400, 422), admin.webhooks.create([]))  # type: ignore[arg-type]
        plain = admin.webhooks.create(good, headers={"content-type": "text/plain"})  # type: ignore[arg-type]
        error = await a.refused("a body that is not JSON by its type is 415", ApiError, (415,), plain)
        a.check("415 is invalid_content_type", error.error == "invalid_content_type", error.error)

        missing = admin.webhook("wh_missing")
        for what, call in [
            ("get", admin.webhooks.get("wh_missing")),
            ("get in its scope", missing.get()),
            ("update", admin.webhooks.update("wh_missing", {"name": "x"})),
            ("update in its scope", missing.update({"name": "x"})),
            ("delete", admin.webhooks.delete("wh_missing")),
            ("delete in its scope", missing.delete()),
            ("list of deliveries", missing.deliveries.list()),
            ("redelivery", missing.deliveries.redeliver("whd_missing")),
            ("redelivery in bulk", missing.redeliver.create({})),
        ]:
            error = await a.refused(f"{what} of an unknown webhook is 404", NotFoundError, (404,), call)
            a.check("404 is not_found", error.error == "not_found", error.error)
        await a.refused("an unknown event is 404", NotFoundError, (404,), admin.events.get("evt_missing"))


async def idempotency(a: Agreement) -> None:
    """Idempotency-Key"""
    body: Any = {"name": "once", "url": a.receiver.url("/idempotency"), "auth": {"type": "bearer+signature"}, "events": ["user.created"]}
    async with a.admin() as admin:
        key = f"once-{uuid.uuid4()}"
        first = await admin.webhooks.create(body, idempotency_key=key)
        a.check("the first call is no replay", "idempotent-replayed" not in a.last.headers, a.last.headers)  # type: ignore[union-attr]
        again = await admin.webhooks.create(body, idempotency_key=key)
        a.check("the same call gives the same webhook, secrets included", again == first, (first, again))
        a.check("the replay says that it is one", a.last.headers.get("idempotent-replayed") == "true", a.last.headers)  # type: ignore[union-attr]
        a.check("the replay has the status of the first call", a.last.status_code == 201, a.last)  # type: ignore[union-attr]
        names = [w.name for w in await collect(admin.webhooks.list_all())]
        a.check("the same call makes one webhook", names.count("once") == 1, names)
        error = await a.refused(
            "the same key with another body is 422", ValidationError, (422,), admin.webhooks.create({**body, "name": "twice"}, idempotency_key=key)
        )
        a.check("that 422 is invalid_request", error.error == "invalid_request", error.error)
        other = await admin.webhooks.create(body, idempotency_key=f"once-{uuid.uuid4()}")
        a.check("another key makes another webhook", other.id != first.id)
        failed = f"failed-{uuid.uuid4()}"
        await a.refused("a call fails", ValidationError, (400, 422), admin.webhooks.create({**body, "name": ""}, idempotency_key=failed))
        retried = await admin.webhooks.create(body, idempotency_key=failed)
        a.check("a failed call frees its key", retried.id, retried)
        longest = await admin.webhooks.create(body, idempotency_key="k" * 256)
        a.check("a key may have 256 characters", longest.id)
        await a.refused("a key may not have 257", ValidationError, (400, 422), admin.webhooks.create(body, idempotency_key="k" * 257))
        for each in (first, other, retried, longest):
            await admin.webhooks.delete(each.id)


async def changes(a: Agreement) -> None:
    """update, delete and If-Match"""
    async with a.admin() as admin:
        made = await admin.webhooks.create(
            {"name": "before", "url": a.receiver.url("/changes"), "auth": {"type": "signature"}, "events": ["user.created"],
             "description": "old", "metadata": {"a": 1}}
        )  # fmt: skip
        stale = made._etag
        one = await admin.webhooks.update(made.id, {"name": "after"}, if_match=stale)
        a.check("an update changes what it names and nothing else", strip(one) == {**strip(made), "name": "after", "updated_at": one.updated_at}, one)
        a.check("an update without `auth` makes no secrets", not signature_of(one.auth), one.auth)
        a.check("an update changes the ETag", one._etag and one._etag != stale, (stale, one._etag))
        a.check("the ETag of an update is that of a get", (await admin.webhooks.get(made.id))._etag == one._etag)
        scope = admin.webhook(made.id)
        for what, call in [
            ("update", admin.webhooks.update(made.id, {"name": "lost"}, if_match=stale)),
            ("update in its scope", scope.update({"name": "lost"}, if_match=stale)),
            ("delete", admin.webhooks.delete(made.id, if_match=stale)),
            ("delete in its scope", scope.delete(if_match=stale)),
        ]:
            error = await a.refused(f"{what} with a stale ETag is 412", PreconditionFailedError, (412,), call)
            a.check("412 names the ETag that holds", error.current_etag == one._etag, error.current_etag)
            a.check("412 is precondition_failed and not to be tried again", (error.error, error.retryable) == ("precondition_failed", False))
        a.check("a refused change changes nothing", (await scope.get()).name == "after")

        one = await scope.update({"description": None, "metadata": None, "events": ["user.deleted"]}, if_match=one._etag)
        a.check("null clears a member", (one.description, not one.metadata or not one.metadata.model_dump()) == (None, True), one)
        a.check("the events of a webhook can be changed", one.events == ["user.deleted"], one.events)
        one = await admin.webhooks.update(made.id, {"name": "no check"})
        a.check("an update without If-Match is not checked", one.name == "no check")
        one = await admin.webhooks.update(made.id, {"auth": {"type": "signature"}})
        a.check("giving `auth` makes a new secret", signature_of(one.auth) not in (None, signature_of(made.auth)), one.auth)
        one = await admin.webhooks.update(made.id, {"auth": {"type": "bearer"}})
        a.check("the kind of authentication can be changed", bearer_of(one.auth) and not signature_of(one.auth), one.auth)
        one = await admin.webhooks.update(made.id, {"status": "disabled", "status_reason": "at night", "status_by": "ops"})
        a.check("a webhook can be disabled", (one.status, one.status_reason, one.status_by) == ("disabled", "at night", "ops"), one)
        a.check("the change of status has its time", one.status_at, one)
        for what, field, body in [
            ("an empty name", "name", {"name": ""}),
            ("an unusable URL", "url", {"url": "nowhere"}),
            ("an unknown event type", "events", {"events": ["user.invented"]}),
            ("an unknown kind of authentication", "auth", {"auth": {"type": "basic"}}),
        ]:
            error = await a.refused(f"an update to {what} is refused", ValidationError, (400, 422), admin.webhooks.update(made.id, body))  # type: ignore[arg-type]
            a.check(f"{what} is named among the fields", any(f["field"].startswith(field) for f in error.fields), error.fields)
        key = f"patch-{uuid.uuid4()}"
        one = await admin.webhooks.update(made.id, {"name": "keyed"}, idempotency_key=key)
        a.check("an update takes an idempotency key", one.name == "keyed")

        gone = await admin.webhooks.delete(made.id, if_match=one._etag)
        a.check("delete with the ETag that holds succeeds, without a body", gone is None and a.last is not None and not a.last.content, gone)
        await a.refused("a deleted webhook is 404", NotFoundError, (404,), admin.webhooks.get(made.id))
        await a.refused("a webhook is deleted once", NotFoundError, (404,), admin.webhooks.delete(made.id))
        two = await admin.webhooks.create({"name": "two", "url": a.receiver.url("/x"), "auth": {"type": "none"}, "events": ["user.created"]})
        await admin.webhook(two.id).delete()
        await a.refused("delete in its scope deletes", NotFoundError, (404,), admin.webhooks.get(two.id))


async def lists(a: Agreement) -> None:
    """list of webhooks, pages and filters"""
    url = a.receiver.url("/lists")
    async with a.admin() as admin:
        before = {w.id for w in await collect(admin.webhooks.list_all())}
        made = [
            (await admin.webhooks.create({"name": f"w{i}", "url": url, "auth": {"type": "signature"}, "events": ["email.sent"]})).id for i in range(5)
        ]
        everything = await collect(admin.webhooks.list_all(limit=100))
        a.check("a list has every webhook once", sorted(w.id for w in everything) == sorted([*made, *before]), everything)
        item = next(w for w in everything if w.id == made[0])
        one = await admin.webhooks.get(made[0])
        shared = {"id", "account_id", "name", "url", "events", "status", "created_at", "updated_at", "description"}
        a.check("an item of a list is the webhook", item.model_dump(include=shared) == one.model_dump(include=shared), item)
        a.check("an item of a list tells the kind of authentication", item.auth_type == "signature", item)
        await paged(a, "webhooks", admin.webhooks.list, admin.webhooks.list_all, [w.id for w in everything])

        await admin.webhooks.update(made[1], {"status": "disabled"})
        await admin.webhooks.delete(made[2])
        for status, there, not_there in [("active", made[0], made[1]), ("disabled", made[1], made[0]), ("deleted", made[2], made[0])]:
            ids = [w.id for w in await collect(admin.webhooks.list_all(status=status))]
            a.check(f"the list of {status} webhooks has those and no others", there in ids and not_there not in ids, ids)
        for each in (0, 1, 3, 4):
            await admin.webhooks.delete(made[each])


async def paged(a: Agreement, what: str, page_of: Any, all_of: Any, expected: list[str], **filters: Any) -> None:
    """Pages of two have all of `expected`, in its order."""
    seen: list[str] = []
    cursor = None
    while True:
        page = await page_of(limit=2, cursor=cursor, **filters)
        if len(page.data) > 2 or (page.has_more and len(page.data) != 2):
            a.check(f"a page of {what} is full and not overfull", False, page)
        seen += [item.id for item in page.data]
        cursor = page.next_cursor
        if not page.has_more:
            break
        if not cursor or len(seen) > len(expected):
            a.check(f"a page of {what} that has more has a cursor that gets on", False, page)
    a.check(f"pages of {what} have all of them, once and in order", seen == expected, (seen, expected))
    a.check(f"the last page of {what} has no cursor", cursor is None, cursor)
    walked = [item.id for item in await collect(all_of(limit=2, **filters))]
    a.check(f"the SDK walks through all {what}", walked == expected, walked)


async def deliveries(a: Agreement) -> None:
    """deliveries: what arrives, its record, filters and pages"""
    path, subject = "/deliveries", {"user_id": f"usr_{uuid.uuid4().hex}"}
    async with a.admin() as admin:
        hook = await admin.webhooks.create(
            {"name": "deliveries", "url": a.receiver.url(path), "auth": {"type": "bearer+signature"}, "events": ["user.created", "user.updated"]}
        )
        began = time.time() * 1000
        await a.trigger("user.created", subject=subject, data={"id": subject["user_id"], "username": "alice@example.com"})
        await a.trigger("user.deleted", subject=subject)
        await a.trigger("user.updated", subject=subject, times=4)
        came = await a.receiver.wait(path, lambda all_: len({d.event_id for d in all_}) >= 5)
        ids = {d.event_id for d in came}
        a.check("each event that happened arrives", len(ids) == 5, came)
        kinds = {d.envelope["data"]["type"] for d in came}
        a.check("no other event arrives", kinds == {"user.created", "user.updated"}, kinds)
        first = came[0]
        a.check("a delivery is described by envelope.json", not a.description.mistakes("events/envelope.json", first.envelope), first.envelope)
        envelope = first.envelope
        a.check("a delivery is a CloudEvents 1.0 event of type `event`", (envelope["specversion"], envelope["type"]) == ("1.0", "event"), envelope)
        a.check("a delivery's source names the webhook", envelope["source"] == f"com.authpi.webhooks/v1/{hook.id}", envelope)
        a.check("a delivery carries subject and data", (envelope["data"]["subject"], envelope["data"]["data"]["username"]) == (subject, "alice@example.com"), envelope)
        a.check("a delivery is signed with the webhook's secret", signed(first, signature_of(hook.auth) or ""), first.headers)
        a.check("a delivery carries the webhook's token", first.headers.get("authorization") == f"Bearer {bearer_of(hook.auth)}", first.headers)
        a.check("a delivery's content type is JSON", first.headers.get("content-type", "").split(";")[0].endswith("json"), first.headers)

        scope = admin.webhook(hook.id).deliveries
        records = await a.until(
            "each delivery that got 200 is recorded as succeeded",
            lambda: collect(scope.list_all()),
            lambda all_: len(all_) == 5 and all(r.status == "succeeded" for r in all_),
        )
        a.check("records are those of the events", {r.event_id for r in records} == ids, records)
        one = next(r for r in records if r.event_type == "user.created")
        a.check("a record counts attempts and has the answer's status", (one.attempt_count, one.last_response_status, one.last_error) == (1, 200, None), one)
        a.check("a record belongs to the webhook", one.webhook_id == hook.id, one)
        a.check("a record has the times of its attempts", one.first_attempted_at and one.last_attempted_at and not one.next_attempt_at, one)

        created = [r.id for r in await collect(scope.list_all(event_type="user.created"))]
        a.check("deliveries can be listed by event type", created == [one.id], created)
        succeeded = await collect(scope.list_all(status="succeeded"))
        failed = await collect(scope.list_all(status="failed"))
        a.check("deliveries can be listed by status", (len(succeeded), len(failed)) == (5, 0), (succeeded, failed))
        after = await collect(scope.list_all(after=began - 60_000))
        later = await collect(scope.list_all(after=began + 600_000))
        a.check("deliveries can be listed from a time on", (len(after), len(later)) == (5, 0), (after, later))
        earlier = await collect(scope.list_all(before=began - 60_000))
        until = await collect(scope.list_all(before=began + 600_000))
        a.check("deliveries can be listed up to a time", (len(earlier), len(until)) == (0, 5), (earlier, until))
        await paged(a, "deliveries", scope.list, scope.list_all, [r.id for r in await collect(scope.list_all(limit=100))])
        updates = [r.id for r in await collect(scope.list_all(event_type="user.updated"))]
        await paged(a, "filtered deliveries", scope.list, scope.list_all, updates, event_type="user.updated")
        await admin.webhooks.delete(hook.id)


async def every_type(a: Agreement) -> None:
    """each type of event, to a webhook that was made by the guide's older call"""
    path = "/every"
    catalogue = {e["properties"]["type"]["const"]: e["properties"]["data"]["$ref"] for e in a.description.events["catalogue.json"]["oneOf"]}
    async with a.admin() as admin:
        hook = await admin.webhooks.create({"name": "every", "url": a.receiver.url(path)})  # type: ignore[typeddict-item]
        for event_type in WebhookEventType:
            await a.trigger(event_type)
        came = await a.receiver.wait(path, lambda all_: len({d.event_id for d in all_}) >= len(catalogue))
        by_type = {d.envelope["data"]["type"]: d for d in came}
        a.check("a webhook without `events` gets every type", set(by_type) >= set(catalogue), set(catalogue) - set(by_type))
        a.check("a webhook without `auth` gets no signature and no token", not any({"authorization", "x-webhook-signature"} & set(d.headers) for d in came))
        wrong = []
        for event_type, delivery in by_type.items():
            data = delivery.envelope["data"].get("data")
            wrong += a.description.mistakes("events/envelope.json", delivery.envelope)
            wrong += a.description.mistakes(f"events/{catalogue[event_type]}", data)
        a.check("each is as envelope.json and the schema of its payload have it", not wrong, wrong)
        await admin.webhooks.delete(hook.id)


async def own_events(a: Agreement) -> None:
    """events about webhooks"""
    async with a.admin() as admin:
        about = ["webhook.created", "webhook.updated", "webhook.deleted", "webhook.paused", "webhook.resumed"]
        make: Any = {"auth": {"type": "none"}, "events": about}
        watcher = await admin.webhooks.create({**make, "name": "watcher", "url": a.receiver.url("/watcher")})
        watched = await admin.webhooks.create({**make, "name": "watched", "url": a.receiver.url("/watched")})
        await admin.webhooks.update(watched.id, {"name": "still watched"})
        await admin.webhooks.delete(watched.id)

        def seen(all_: list[Delivery]) -> set[str]:
            return {d.envelope["data"]["type"] for d in all_ if watched.id in json.dumps(d.envelope["data"])}

        came = await a.receiver.wait("/watcher", lambda all_: seen(all_) >= {"webhook.created", "webhook.updated", "webhook.deleted"})
        a.check("changes of a webhook are events for others", seen(came) >= {"webhook.created", "webhook.updated", "webhook.deleted"}, came)
        a.check("no event tells a webhook's secret", not any("_plain" in d.body.decode() or "whs_" in d.body.decode() for d in came), came)
        a.check("a webhook hears nothing of itself", not seen(a.receiver.came("/watched")), a.receiver.came("/watched"))
        about_watcher = [d for d in a.receiver.came("/watcher") if watcher.id in json.dumps(d.envelope["data"])]
        a.check("a webhook does not hear of its own creation", not about_watcher, about_watcher)
        types = [e.type for e in await collect(admin.events.list_all(event_types=",".join(about)))]
        a.check("changes of webhooks are in the event log", {"webhook.created", "webhook.updated", "webhook.deleted"} <= set(types), types)
        await admin.webhooks.delete(watcher.id)


async def redelivery(a: Agreement) -> None:
    """redelivery of one"""
    path, subject = "/redelivery", {"user_id": f"usr_{uuid.uuid4().hex}"}
    async with a.admin() as admin:
        hook = await admin.webhooks.create({"name": "redelivery", "url": a.receiver.url(path), "auth": {"type": "signature"}, "events": ["user.blocked"]})
        scope = admin.webhook(hook.id).deliveries
        a.receiver.answer(path, 500)
        await a.trigger("user.blocked", subject=subject)
        [record] = await a.until(
            "a delivery that never gets 200 is recorded as failed", scope_list(scope), lambda all_: [r.status for r in all_] == ["failed"]
        )
        a.check("a failed record tells why", record.last_response_status == 500 and record.last_error, record)
        a.check("a failed record has used up its budget and waits for nothing", (record.attempt_count, record.next_attempt_at) == (record.attempt_budget, None), record)
        attempts = len(a.receiver.came(path))
        a.check("a record counts every attempt", record.attempt_count == attempts, (record, attempts))

        again = await scope.redeliver(record.id)
        a.check("a redelivery that gets 500 has not succeeded", (again.success, again.status, again.last_response_status) == (False, "failed", 500), again)
        a.check("a redelivery is one more attempt", again.attempt_count == attempts + 1 == len(a.receiver.came(path)), again)
        stale = again._etag
        a.check("a redelivery has an ETag", stale, again)

        a.receiver.answer(path, 204)
        again = await scope.redeliver(record.id, if_match=stale)
        a.check("204 is no receipt", (again.success, again.last_response_status) == (False, 204), again)
        error = await a.refused("a redelivery with a stale ETag is 412", PreconditionFailedError, (412,), scope.redeliver(record.id, if_match=stale))
        a.check("412 names the ETag that holds", error.current_etag == again._etag, error.current_etag)

        a.receiver.answer(path, 200)
        key = f"redeliver-{uuid.uuid4()}"
        again = await scope.redeliver(record.id, idempotency_key=key)
        a.check("a redelivery that gets 200 has succeeded", (again.success, again.status, again.last_response_status) == (True, "succeeded", 200), again)
        a.check("the record keeps its id, event and webhook", (again.id, again.event_id, again.webhook_id) == (record.id, record.event_id, hook.id), again)
        count = len(a.receiver.came(path))
        replay = await scope.redeliver(record.id, idempotency_key=key)
        a.check("the same redelivery again is a replay", replay == again and a.last is not None and a.last.headers.get("idempotent-replayed") == "true", replay)
        a.check("a replay delivers nothing", len(a.receiver.came(path)) == count)
        came = a.receiver.came(path)
        a.check("each attempt carries the same event", {d.event_id for d in came} == {record.event_id}, came)
        a.check("each attempt carries the same bytes of the event", len({json.dumps(d.envelope["data"]) for d in came}) == 1, came)
        a.check("each attempt is signed", all(signed(d, signature_of(hook.auth) or "") for d in came), came)
        await a.refused("redelivery of an unknown delivery is 404", NotFoundError, (404,), scope.redeliver("whd_missing"))

        gate = a.receiver.hold(path)
        key = f"held-{uuid.uuid4()}"
        slow = asyncio.create_task(scope.redeliver(record.id, idempotency_key=key))
        came = await a.receiver.wait(path, lambda all_: len(all_) > count)
        a.check("a redelivery waits for the endpoint's answer", len(came) == count + 1 and not slow.done(), came)
        error = await a.refused("the same key while the first call runs is 409", ConflictError, (409,), scope.redeliver(record.id, idempotency_key=key))
        a.check("409 is conflict, with a Retry-After", error.error == "conflict" and a.last is not None and a.last.headers.get("retry-after"), error.error)
        gate.set()
        a.check("the first call then succeeds", (await slow).success, slow)
        await admin.webhooks.delete(hook.id)


def scope_list(scope: DeliveriesResource, **filters: Any) -> Callable[[], Awaitable[list[Any]]]:
    return lambda: collect(scope.list_all(**filters))


async def bulk_redelivery(a: Agreement) -> None:
    """redelivery of all that failed"""
    path = "/bulk"
    async with a.admin() as admin:
        hook = await admin.webhooks.create({"name": "bulk", "url": a.receiver.url(path), "auth": {"type": "none"}, "events": ["email.sent", "email.failed"]})
        scope = admin.webhook(hook.id)
        await a.trigger("email.failed")
        await a.until("one delivery succeeds", scope_list(scope.deliveries), lambda all_: [r.status for r in all_] == ["succeeded"])
        a.receiver.answer(path, 503)
        await a.trigger("email.sent", times=3)
        failed = await a.until("three deliveries fail", scope_list(scope.deliveries, status="failed"), lambda all_: len(all_) == 3)
        a.receiver.answer(path, 200)
        count = len(a.receiver.came(path))
        key = f"bulk-{uuid.uuid4()}"
        result = await scope.redeliver.create({}, idempotency_key=key)
        a.check("redelivery in bulk answers an object", isinstance(result, dict), result)
        a.check("it counts what failed", result.get("redelivered") == 3, result)
        records = await a.until(
            "then all have succeeded", scope_list(scope.deliveries), lambda all_: [r.status for r in all_] == ["succeeded"] * 4
        )
        came = a.receiver.came(path)[count:]
        a.check("only what had failed came again", sorted(d.event_id for d in came) == sorted(r.event_id for r in failed), came)
        a.check("records stay the same", {r.id for r in failed} < {r.id for r in records}, records)
        replay = await scope.redeliver.create({}, idempotency_key=key)
        a.check("the same redelivery in bulk again is a replay", replay == result and len(a.receiver.came(path)) == count + 3, replay)
        nothing = await scope.redeliver.create({})
        a.check("with nothing failed there is nothing to redeliver", nothing.get("redelivered") == 0, nothing)
        await a.refused("a filter that is no time is refused", ValidationError, (400, 422), scope.redeliver.create({"after": "yesterday"}))
        await admin.webhooks.delete(hook.id)


async def events(a: Agreement) -> None:
    """events: list, filters, pages, get and aggregate"""
    run = uuid.uuid4().hex
    ids = {"user_id": f"usr_{run}", "issuer_id": f"i_{run}", "client_id": f"c_{run}"}
    async with a.admin() as admin:
        began = time.time() * 1000
        await a.trigger("session.created", subject=ids, data={"id": "ses_1", "nested": {"kept": [1, 2]}})
        await a.trigger("user.created", subject={"user_id": ids["user_id"]}, times=3)
        await a.trigger("client.created", subject={"client_id": ids["client_id"]})

        async def found(**filters: Any) -> list[Any]:
            return await collect(admin.events.list_all(**filters))

        mine = await a.until("events of a user can be listed", lambda: found(user_id=ids["user_id"]), lambda all_: len(all_) == 4)
        for name, wanted in [("issuer_id", 1), ("client_id", 2)]:
            some = await found(**{name: ids[name]})
            a.check(f"events can be listed by {name}", len(some) == wanted, some)
        both = await found(user_id=ids["user_id"], event_types="session.created,user.created")
        a.check("events can be listed by several types", len(both) == 4, both)
        some = await found(user_id=ids["user_id"], event_types="session.created")
        a.check("events can be listed by one type", [e.type for e in some] == ["session.created"], some)
        some = await found(user_id=ids["user_id"], client_id=ids["client_id"])
        a.check("filters narrow each other", len(some) == 1, some)
        for filters, wanted in [({"after": began - 60_000}, 4), ({"after": began + 600_000}, 0), ({"before": began + 600_000}, 4), ({"before": began - 60_000}, 0)]:
            some = await found(user_id=ids["user_id"], **filters)
            a.check(f"events can be listed {next(iter(filters))} a time", len(some) == wanted, some)
        await paged(a, "events", admin.events.list, admin.events.list_all, [e.id for e in mine], user_id=ids["user_id"])

        one = next(e for e in mine if e.type == "session.created")
        got = await admin.events.get(one.id)
        a.check("get returns what the list returned", got == one, got)
        a.check("an event has an ETag", got._etag, got)
        a.check("an event keeps its subject and data", (got.subject, (got.data or {}).get("nested")) == (ids, {"kept": [1, 2]}), got)
        a.check("an event's time is in Unix milliseconds", abs(got.timestamp - began) < 600_000, got.timestamp)

        total = await admin.events.aggregate(user_id=ids["user_id"])
        a.check("an aggregate without more is one total", len(total.buckets) == 1, total)
        a.check("the total is the number of events", 4 in total.buckets[0].values(), total)
        grouped = await admin.events.aggregate(user_id=ids["user_id"], group_by="type")
        a.check("an aggregate by type has a bucket for each", grouped.group_by == "type" and len(grouped.buckets) == 2, grouped)
        series = await admin.events.aggregate(
            user_id=ids["user_id"], issuer_id=ids["issuer_id"], client_id=ids["client_id"], event_types="session.created",
            after=began - 60_000, before=began + 600_000, interval="hour", count_unique="user_id",
        )  # fmt: skip
        a.check("an aggregate can be a time series", series.interval == "hour" and series.buckets, series)


async def refusals_by_the_sdk(a: Agreement) -> None:
    """ids that would retarget a call"""
    async with a.admin() as admin:
        for bad in ("", ".", "..", "a/b", "a?b", "a#b"):
            try:
                await admin.webhooks.get(bad)
            except ValueError:
                continue
            a.check(f"the SDK refuses the id {bad!r}", False)
        a.check("the SDK refuses ids that would retarget a call", True)


CHECKS = [
    caller,
    credentials,
    creation,
    mistakes,
    idempotency,
    changes,
    lists,
    deliveries,
    every_type,
    own_events,
    redelivery,
    bulk_redelivery,
    events,
    refusals_by_the_sdk,
]


async def agree(service: Service) -> None:
    a = Agreement(service)
    try:
        for check in CHECKS:
            print(f"      {check.__doc__}", flush=True)
            await asyncio.wait_for(check(a), 120)
        described = {name for *_, name, _ in a.description.operations()}
        a.check("every operation of the description was driven", a.operations >= described, described - a.operations)
        offered = {f"{part.__name__}.{name}" for part in PARTS for name, call in vars(part).items() if not name.startswith("_") and callable(call)}
        a.check("every call of the SDK was made", a.calls >= offered, offered - a.calls)
        print(f"agreed in {a.checks} checks")
    finally:
        await a.close()


def arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    command: list[str] = []
    if "--" in argv:
        cut = argv.index("--")
        argv, command = argv[:cut], argv[cut + 1 :]
    parser = argparse.ArgumentParser(description="AuthPI's own SDK against a service that speaks as AuthPI does.")
    for name in Service.__dataclass_fields__:
        parser.add_argument(f"--{name.replace('_', '-')}", default=os.environ.get(f"AUTHPI_{name.upper()}"))
    given = parser.parse_args(argv)
    missing = [name for name, value in vars(given).items() if not value]
    if missing and not command:
        parser.error(f"not given: {', '.join(missing)}")
    return given, command


def main() -> int:
    given, command = arguments(sys.argv[1:])
    try:
        if not command:
            asyncio.run(agree(Service(**vars(given))))
            return 0
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            try:
                told = json.loads(process.stdout.readline())
                asyncio.run(agree(Service(**{name: told[name] for name in Service.__dataclass_fields__})))
            finally:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    raise Disagreement("the service ends soon after SIGTERM") from None
        return 0
    except Disagreement as disagreement:
        print(f"DISAGREES  {disagreement}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
