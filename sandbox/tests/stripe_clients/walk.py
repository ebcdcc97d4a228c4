"""The provider's own Python client finds its way through the fake, and every object is held against its class."""

import http.server
import os
import queue
import threading
import typing
import urllib.error
import urllib.parse
import urllib.request

import stripe
from stripe._object_classes import get_object_class
from stripe._stripe_object import UntypedStripeObject

SECRET = os.environ["FAKE_WEBHOOK_SECRET"]
client = stripe.StripeClient(
    os.environ["FAKE_KEY"], base_addresses={"api": os.environ["FAKE_URL"]}, max_network_retries=0
)
v1 = client.v1
events = queue.Queue()
problems, checked = [], 0


class Merchant(http.server.BaseHTTPRequestHandler):
    """Believes an event as far as the client's own function does."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        signature = self.headers["stripe-signature"]
        events.put(client.construct_event(body, signature, SECRET))
        for wrong_body, wrong_secret in ((body + b" ", SECRET), (body, "whsec_of_somebody_else")):
            try:
                client.construct_event(wrong_body, signature, wrong_secret)
                problems.append("a forged event was believed")
            except stripe.SignatureVerificationError:
                pass
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


def fits(value, kind, path):
    """Says what of the value its class in the client does not know. Nested classes are looked into."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is typing.Any:
        return []
    if origin is typing.Union:
        if value is None:
            return [] if type(None) in arguments else [f"{path} is null"]
        lists = [typing.get_args(one) for one in arguments if typing.get_origin(one) is typing.Literal]
        literals = [word for words in lists for word in words]
        if literals and isinstance(value, str):
            return [] if value in literals else [f"{path} is {value!r}, which is none of the client's words"]
        tries = [fits(value, one, path) for one in arguments if one is not type(None)]
        return min(tries, key=len)
    if origin is typing.Literal:
        return [] if value in arguments else [f"{path} is {value!r}, not one of {arguments}"]
    if origin in (list, typing.List) and isinstance(value, list):
        return [problem for number, one in enumerate(value) for problem in fits(one, arguments[0], f"{path}[{number}]")]
    is_map = isinstance(origin, type) and issubclass(origin, (dict, UntypedStripeObject))
    if is_map or kind in (dict, UntypedStripeObject):
        return [] if isinstance(value, dict) else [f"{path} is no object: {value!r}"]
    is_list = isinstance(origin, type) and issubclass(origin, stripe.ListObject)
    if is_list or isinstance(kind, (str, typing.ForwardRef)):
        return [] if not isinstance(value, dict) or "object" not in value else check(value, path)
    if isinstance(kind, type) and issubclass(kind, stripe.StripeObject):
        return fields(value, kind, path) if isinstance(value, dict) else [f"{path} is no object: {value!r}"]
    right = isinstance(kind, type) and isinstance(value, kind) and not (kind is int and isinstance(value, bool))
    return [] if right else [f"{path} is {value!r}, not {kind}"]


def fields(value, kind, path):
    annotations = {}
    for one in reversed(kind.__mro__):
        if issubclass(one, stripe.StripeObject) and one is not stripe.StripeObject:
            annotations.update(one.__dict__.get("__annotations__", {}))
    found = [f"{path}.{name} is not in the client" for name in value if name not in annotations]
    for name, inner in annotations.items():
        if typing.get_origin(inner) is typing.ClassVar or name == "OBJECT_NAME" or name.startswith("_"):
            continue
        optional = typing.get_origin(inner) is typing.Union and type(None) in typing.get_args(inner)
        if name in value:
            found += fits(value[name], inner, f"{path}.{name}")
        elif not optional:
            found.append(f"{path}.{name} is missing")
    return found


def check(value, path=None):
    global checked
    checked += 1
    name = value["object"]
    if name in ("list", "search_result"):
        return [problem for one in value["data"] for problem in check(one)]
    kind = get_object_class("V1", name)
    if value.get("deleted"):
        return []
    return fields(value, kind, path or name)


def whole(thing):
    """The object, once its class has nothing to say against it."""
    problems.extend(check(thing.to_dict()))
    return thing


def refused(kind, code, call):
    try:
        call()
    except kind as error:
        assert error.code == code and error.request_id.startswith("req_"), (error.code, code, error.request_id)
        return error
    raise SystemExit(f"not refused: {kind} {code}")


def step(text):
    print(f"python: {text}")


class Stays(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def press(url, **form):
    """A button of the hosted page; where it leads."""
    try:
        body = urllib.parse.urlencode(form).encode()
        answer = urllib.request.build_opener(Stays).open(urllib.request.Request(url, data=body))
        return answer.status, None
    except urllib.error.HTTPError as error:
        return error.code, error.headers["location"]


def told(kind):
    while True:
        event = events.get(timeout=10)
        if event.type == kind:
            return whole(event)


port = int(os.environ["FAKE_WEBHOOK_PORT"])
merchant = http.server.ThreadingHTTPServer(("127.0.0.1", port), Merchant)
threading.Thread(target=merchant.serve_forever, daemon=True).start()

customer = whole(v1.customers.create({"email": "ada@example.org", "name": "Ada", "metadata": {"buyer": "ada"}}))
assert whole(v1.customers.retrieve(customer.id)).email == "ada@example.org"
whole(v1.customers.update(customer.id, {"address": {"city": "Köln", "country": "DE"}}))
# The check is one: what is spoilt is seen.
for spoilt in (
    {"email": 1}, {"tax_exempt": "sometimes"}, {"colour": "red"}, {"invoice_settings": {"footer": 1}},
    {"object": "charge"},
):
    assert check({**customer.to_dict(), **spoilt}), f"this is not seen: {spoilt}"
assert check({name: value for name, value in customer.to_dict().items() if name != "livemode"}), "a gap is not seen"
assert told("customer.created").data.object.id == customer.id
step(f"customer {customer.id}, and the client's own function verified the event about it")

session = whole(v1.checkout.sessions.create({
    "mode": "setup", "customer": customer.id, "currency": "eur", "cancel_url": "https://shop.example/cancel",
    "success_url": "https://shop.example/back?session={CHECKOUT_SESSION_ID}",
}))
page = urllib.request.urlopen(session.url).read().decode()
assert "pm_card_visa" in page, page
assert press(session.url, card="pm_card_chargeDeclined") == (200, None)
assert press(session.url, card="pm_card_visa") == (303, f"https://shop.example/back?session={session.id}")
assert told("checkout.session.completed").data.object.id == session.id
session = whole(v1.checkout.sessions.retrieve(session.id, {"expand": ["setup_intent.payment_method"]}))
setup = session.setup_intent
card = setup.payment_method
assert (session.status, setup.status, card.customer) == ("complete", "succeeded", customer.id)
step(f"session {session.id}: a card declined, {card.id} saved on the hosted page, the event verified")

for number in (1, 2):
    paid = whole(v1.payment_intents.create({
        "amount": 14900, "currency": "eur", "customer": customer.id, "payment_method": card.id, "off_session": True,
        "confirm": True, "allowed_payment_method_types": ["card"], "metadata": {"order_id": f"o-{number}"},
    }))
    assert (paid.status, paid.amount_received, paid.payment_method) == ("succeeded", 14900, card.id), paid
charge = whole(v1.charges.retrieve(paid.latest_charge, {"expand": ["balance_transaction"]}))
assert charge.balance_transaction.net == 14900 - charge.balance_transaction.fee
step(f"{card.id} paid twice, off session")

once = {"amount": 500, "currency": "eur", "allowed_payment_method_types": ["card"], "confirm": True}
used = v1.payment_intents.create({**once, "payment_method": "pm_card_visa"}).payment_method
again = refused(stripe.InvalidRequestError, None, lambda: v1.payment_intents.create({**once, "payment_method": used}))
assert "may not be used again" in str(again), again
step(f"{used} paid once without a customer and was then refused")

declined = refused(stripe.CardError, "card_declined", lambda: v1.payment_intents.create({
    **once, "payment_method": "pm_card_chargeDeclinedInsufficientFunds"}))
assert declined.error.decline_code == "insufficient_funds"
assert whole(declined.error.payment_intent).status == "requires_payment_method"
step("a decline is a CardError with its codes and its intent")

asking = v1.payment_methods.attach("pm_card_authenticationRequired", {"customer": customer.id})
whole(asking)
away = {**once, "customer": customer.id, "payment_method": asking.id, "off_session": True}
error = refused(stripe.CardError, "authentication_required", lambda: v1.payment_intents.create(away))
intent = whole(v1.payment_intents.retrieve(error.error.payment_intent.id))
assert (intent.status, intent.next_action) == ("requires_payment_method", None)
back = {"payment_method": asking.id, "return_url": "https://shop.example/back"}
intent = whole(v1.payment_intents.confirm(intent.id, back))
link = intent.next_action.redirect_to_url.url
address, secret = link.split("?")
status, place = press(f"{address}/complete?{secret}")
assert status == 303 and place.startswith("https://shop.example/back?payment_intent="), place
assert whole(v1.payment_intents.retrieve(intent.id)).status == "succeeded"
step("off session: authentication_required; with a return_url the link leads to the bank and back, and money is taken")

refund = whole(v1.refunds.create({"payment_intent": paid.id, "amount": 4900, "reason": "requested_by_customer"}))
assert (refund.status, whole(v1.refunds.retrieve(refund.id)).amount) == ("succeeded", 4900)
refused(stripe.InvalidRequestError, "amount_too_large",
        lambda: v1.refunds.create({"payment_intent": paid.id, "amount": 14900}))
assert told("charge.refunded").data.object.amount_refunded == 4900
step(f"{refund.id} gave back 49.00 of 149.00, and no more than the rest goes")

listed = [whole(one).id for one in v1.payment_intents.list({"limit": 2}).auto_paging_iter()]
made = [whole(one).id for one in v1.payment_intents.list({"limit": 100}).data]
assert listed == made and len(made) > 4, (listed, made)
for page in (v1.charges, v1.refunds, v1.balance_transactions, v1.events, v1.customers, v1.setup_intents,
             v1.checkout.sessions, v1.disputes):
    whole(page.list({"limit": 100}))
step(f"{len(made)} intents in pages of two are those of one page; every list is readable")

found = whole(v1.payment_intents.search({"query": "metadata['order_id']:'o-2' AND status:'succeeded'"}))
assert [one.id for one in found.data] == [paid.id], found
step("search found the second order's intent by its metadata")

key = {"idempotency_key": "walk"}
first = v1.customers.create({"name": "Eve"}, key)
repeat = v1.customers.create({"name": "Eve"}, key)
assert first.id == repeat.id and repeat.last_response.headers["idempotent-replayed"] == "true"
assert repeat.last_response.headers["original-request"] == first.last_response.request_id
refused(stripe.IdempotencyError, None, lambda: v1.customers.create({"name": "Mallory"}, key))
step("a repeated key has the same answer, and other parameters under it are an IdempotencyError")

unknown = refused(stripe.InvalidRequestError, "parameter_unknown", lambda: v1.customers.create({"colour": "red"}))
assert unknown.param == "colour"
refused(stripe.InvalidRequestError, "resource_missing", lambda: v1.payment_intents.retrieve("pi_0"))
stranger = stripe.StripeClient("sk_test_stranger", base_addresses={"api": os.environ["FAKE_URL"]})
try:
    stranger.v1.customers.list()
    raise SystemExit("a stranger was let in")
except stripe.AuthenticationError:
    pass
step("refusals name their parameter, and a stranger is not let in")

v1.payment_methods.detach(card.id)
refused(stripe.InvalidRequestError, None, lambda: v1.payment_intents.create({
    **once, "customer": customer.id, "payment_method": card.id}))
assert v1.customers.delete(customer.id).deleted and v1.customers.retrieve(customer.id).deleted
refused(stripe.InvalidRequestError, "resource_missing", lambda: v1.payment_intents.create({
    **once, "customer": customer.id, "payment_method": "pm_card_visa"}))
step("a detached card and a deleted customer pay for nothing")

if problems:
    raise SystemExit("\n".join(sorted(set(problems))))
print(f"python: walked to its end with stripe {stripe.VERSION}, {checked} objects held against their classes")
