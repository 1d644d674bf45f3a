"""How many calls AuthPI's own Python SDK makes in a second, for `cargo xtask bench client`.

    python calls.py --service '{"base_url": …}' --webhook wh_… --seconds 3 get 64
    python calls.py --version

`--service` is the line that `authpi emulate --json` prints. Prints one number.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.metadata
import json
import time

from authpi_admin import AuthPIAdmin


async def measure(arguments: argparse.Namespace) -> float:
    service = json.loads(arguments.service)
    admin = AuthPIAdmin(
        base_url=service["base_url"],
        api_key=(service["key_id"], service["key_secret"]),
        account_id=service["account_id"],
    )

    async def once() -> None:
        if arguments.operation == "get":
            assert (await admin.webhooks.get(arguments.webhook)).id == arguments.webhook
        else:
            wanted = {"name": "users", "url": "https://example.com/hooks", "events": ["user.created"], "auth": {"type": "signature"}}
            assert (await admin.webhooks.create(wanted)).id  # type: ignore[arg-type]

    await once()
    done = 0
    started = time.perf_counter()
    until = started + arguments.seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < until:
            await once()
            done += 1

    await asyncio.gather(*(work() for _ in range(arguments.in_flight)))
    return done / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"authpi-admin {importlib.metadata.version('authpi-admin')}")
    parser.add_argument("--service", required=True)
    parser.add_argument("--webhook", required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("operation", choices=["get", "create"])
    parser.add_argument("in_flight", type=int)
    print(asyncio.run(measure(parser.parse_args())))


if __name__ == "__main__":
    main()
