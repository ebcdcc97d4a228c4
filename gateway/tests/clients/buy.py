"""Buys a pair with a client that openapi-python-client makes of the buyers' /openapi.json."""

import os
import time

from doorbuster_client import AuthenticatedClient
from doorbuster_client.api.checkout import put_profile
from doorbuster_client.api.claims import get_claim, make_claim
from doorbuster_client.api.orders import get_order
from doorbuster_client.models import ClaimFound, ClaimStatus, ClaimTaken, NewClaim, OrderFound, OrderState, Profile, ShipTo

client = AuthenticatedClient(base_url=os.environ["DOORBUSTER_URL"], token=os.environ["DOORBUSTER_TOKEN"])
drop = os.environ["DOORBUSTER_DROP"]


def until(what, ask):
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if ask():
            return
        time.sleep(0.05)
    raise SystemExit(f"in vain waited for: {what}")


address = ShipTo(name="Ada Lovelace", line1="Domkloster 4", city="Köln", postal_code="50667", country="DE")
profile = Profile(payment_method="pm_card_visa", email="ada@example.com", ship_to=address)
saved = put_profile.sync(client=client, body=profile)
assert saved == profile, saved

claimed = make_claim.sync(drop, client=client, body=NewClaim(quantity=1), idempotency_key="python")
assert isinstance(claimed, ClaimTaken) and len(claimed.serials) == 1, claimed


def is_confirmed():
    claim = get_claim.sync(claimed.claim_id, client=client)
    assert isinstance(claim, ClaimFound), claim
    return claim.status == ClaimStatus.CONFIRMED


until("the claim is confirmed", is_confirmed)
order = get_order.sync(claimed.claim_id, client=client)
assert isinstance(order, OrderFound) and order.status == OrderState.CONFIRMED, order
assert order.items[0].quantity == 1, order

# What went wrong is typed too.
refused = make_claim.sync_detailed(drop, client=client, body=NewClaim(quantity=99), idempotency_key="python-2")
assert refused.status_code == 409 and refused.parsed.code.value == "limit_exceeded", refused

print(f"python: order {order.order_id} is {order.status}, {order.total.amount_minor} {order.total.currency}")
